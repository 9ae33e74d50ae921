package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// keyName is what a key's id may look like where it becomes part of a request.
var keyName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// keyService asks a sender's API for keys by their ids, with the account of whoever receives its webhooks.
type keyService struct {
	keys                   *Keys
	base, client, password string

	mu    sync.Mutex
	token string // eBay's application token
	until time.Time
}

// newKeyService is the service of that name; handshake.environment: sandbox chooses the sender's test system.
func newKeyService(name string, params map[string]string) *Keys {
	k := newKeys("")
	s := &keyService{keys: k, client: params["client_id"], password: params["client_secret"]}
	sandbox := params["environment"] == "sandbox"
	switch name {
	case "plaid":
		s.base, k.ask = "https://production.plaid.com", s.plaid
		if sandbox {
			s.base = "https://sandbox.plaid.com"
		}
	case "ebay":
		s.base, k.ask = "https://api.ebay.com", s.ebay
		if sandbox {
			s.base = "https://api.sandbox.ebay.com"
		}
	}
	return k
}

// plaid is /webhook_verification_key/get, which gives a JWK.
func (s *keyService) plaid(ctx context.Context, id string) ([]byte, error) {
	body, err := json.Marshal(map[string]string{"client_id": s.client, "secret": s.password, "key_id": id})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/webhook_verification_key/get", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	var out struct {
		Key json.RawMessage `json:"key"`
	}
	if err := s.ask(req, &out); err != nil {
		return nil, err
	}
	if len(out.Key) == 0 || out.Key[0] != '{' {
		return nil, ErrNoKey
	}
	return out.Key, nil
}

// ebay is getPublicKey of the Notification API, which gives a PEM block on one line and wants an application token.
func (s *keyService) ebay(ctx context.Context, id string) ([]byte, error) {
	token, err := s.application(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/commerce/notification/v1/public_key/"+id, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	var out struct {
		Key string `json:"key"`
	}
	if err := s.ask(req, &out); err != nil {
		return nil, err
	}
	const begin, end = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
	inner, ok := strings.CutPrefix(strings.TrimSpace(out.Key), begin)
	if inner, ok2 := strings.CutSuffix(inner, end); ok && ok2 {
		return []byte(begin + "\n" + strings.Join(strings.Fields(inner), "\n") + "\n" + end + "\n"), nil
	}
	return nil, ErrNoKey
}

// application is the application token, renewed a minute before it ends.
func (s *keyService) application(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && time.Now().Before(s.until) {
		return s.token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"https://api.ebay.com/oauth/api_scope"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/identity/v1/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(s.client, s.password)
	var out struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"`
	}
	if err := s.ask(req, &out); err != nil {
		return "", err
	}
	if out.Token == "" {
		return "", fmt.Errorf("%w: no access token", ErrNoKey)
	}
	s.token, s.until = out.Token, time.Now().Add(time.Duration(min(max(out.Expires, 0), 86400))*time.Second-time.Minute)
	return s.token, nil
}

func (s *keyService) ask(req *http.Request, out any) error {
	body, err := s.keys.do(req)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}
