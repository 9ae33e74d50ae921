package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/verify"
)

// Bounds on fetched keys.
const (
	keyTimeout  = 3 * time.Second
	maxKeyBytes = 64 << 10
	keyFresh    = time.Hour        // how long a fetched document is used without asking again
	keyRetry    = 30 * time.Second // how long to wait after a failure, or before an unknown key id is looked up again
	maxKeyDocs  = 256              // documents remembered
	maxFetches  = 4                // at the same time
)

// ErrNoKey says that a sender's key could not be had. An error that is not final wraps verify.ErrKeyLater, too.
var ErrNoKey = errors.New("no such key")

// because says why a document could not be had, and is one of the errors that say what follows for a key. Not every document is one.
type because struct {
	text string
	kind error
}

func (b because) Error() string { return b.text }
func (b because) Unwrap() error { return b.kind }

var (
	errNotHTTPS = because{"not https", ErrNoKey}
	errSize     = because{"an empty or too large answer", ErrNoKey}
)

// Keys fetches the keys that a sender publishes: certificates by URL, or the keys of one JWK set by their ids. It speaks
// https only, follows no redirect, connects to no private address, waits at most 3 s and reads at most 64 KiB. Documents are
// remembered for an hour, fetched once for all who wait, and used on while a new one cannot be had. It is safe for
// concurrent use and starts nothing.
type Keys struct {
	jwks   string                                               // "" = names are URLs of certificates
	ask    func(ctx context.Context, id string) ([]byte, error) // of a service that gives keys one by one, to those who have an account; nil = none
	client *http.Client
	slots  chan struct{}

	mu   sync.Mutex
	docs map[string]*keyDoc
	set  []byte            // the JWK set that was read last
	byID map[string][]byte // its keys
}

// keyDoc is one fetched document. Its mutex is held while it is fetched: whoever waits then reads the result.
type keyDoc struct {
	mu      sync.Mutex
	body    []byte
	fetched time.Time // last success
	tried   time.Time // last attempt
	err     error     // of the last attempt
}

// KeySources says where the published keys of requests come from that are verified like those of p, or by fields that replaced its own. They
// come from nowhere where they are static, or must be pinned under public_keys: the source is nil then, or knows no key where requests name
// theirs. params are the values of {config:name}.
func (p Preset) KeySources(params map[string]string) verify.KeySources {
	return func(s *verify.Spec) verify.KeySource {
		switch {
		case s.Key == "certificate_url":
			return newKeys("")
		case s.JWKS != "":
			return newKeys(s.JWKS)
		case s.Key != "key_id":
			return nil
		case p.KeyService != "" && params["client_id"] != "" && params["client_secret"] != "":
			return newKeyService(p.KeyService, params)
		}
		return verify.StaticKeys{}
	}
}

// A KeyStore lets sources go on with the keys that they have fetched when their configuration is read again. The zero value is ready; it is safe for concurrent use.
type KeyStore struct {
	mu         sync.Mutex
	kept, used map[string]verify.KeySource // by what they are for
}

// Sources is p.KeySources for the source of that name, with what it had before where that comes from the same place.
func (s *KeyStore) Sources(source string, p Preset, params map[string]string) verify.KeySources {
	anew := p.KeySources(params)
	return func(spec *verify.Spec) verify.KeySource {
		name := fmt.Sprintf("%q", []any{source, p.KeyService, params, spec.Key, spec.JWKS})
		s.mu.Lock()
		defer s.mu.Unlock()
		keys := s.used[name]
		if keys == nil {
			keys = s.kept[name]
		}
		if keys == nil {
			keys = anew(spec)
		}
		if s.used == nil {
			s.used = map[string]verify.KeySource{}
		}
		s.used[name] = keys
		return keys
	}
}

// Settle forgets what nobody has asked for since it was called last.
func (s *KeyStore) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept, s.used = s.used, nil
}

// NewKeys fetches certificates by URL.
func NewKeys() *Keys { return newKeys("") }

// Visit asks for a URL once, under the rules of keys, and wants a 200. The caller has checked whose URL it is.
func (k *Keys) Visit(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	_, err := k.get(ctx, address)
	return err
}

func newKeys(jwks string) *Keys {
	dialer := &net.Dialer{Timeout: keyTimeout, Control: publicOnly}
	return &Keys{
		jwks: jwks, docs: map[string]*keyDoc{}, slots: make(chan struct{}, maxFetches),
		client: &http.Client{
			Timeout: keyTimeout,
			Transport: &http.Transport{
				Proxy: nil, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableKeepAlives: true,
				TLSHandshakeTimeout: keyTimeout, MaxResponseHeaderBytes: maxKeyBytes,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// notPublic are networks that Go's own predicates leave out: shared address space (RFC 6598), benchmarks (RFC 2544),
// NAT64 and 6to4, which lead to IPv4 addresses of any kind, and reserved addresses.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"),
}

// publicOnly refuses connections to addresses that are not on the public Internet, after the name has been resolved.
func publicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return because{ip.String() + " is not a public address", ErrNoKey}
	}
	for _, p := range notPublic {
		if p.Contains(ip) {
			return because{ip.String() + " is not a public address", ErrNoKey}
		}
	}
	return nil
}

// Key gives the certificate at the URL name, or the JWK whose id name is. Errors wrap ErrNoKey.
func (k *Keys) Key(ctx context.Context, name string) ([]byte, error) {
	switch {
	case k.ask != nil && !keyName.MatchString(name):
		return nil, ErrNoKey
	case k.ask != nil || k.jwks == "":
		body, err := k.document(ctx, name, keyFresh)
		if body != nil {
			return body, nil
		}
		return nil, err
	}
	for _, fresh := range []time.Duration{keyFresh, keyRetry} { // a new key, perhaps: not more often than that
		body, err := k.document(ctx, k.jwks, fresh)
		if key := k.find(body, name); key != nil {
			return key, nil
		}
		if err != nil { // it may be in the set that there is now
			return nil, err
		}
	}
	return nil, ErrNoKey
}

// document gives what is at address. The error says why it is older than fresh; without a body, why there is none.
func (k *Keys) document(ctx context.Context, address string, fresh time.Duration) ([]byte, error) {
	d, err := k.entry(address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	switch {
	case d.body != nil && now.Sub(d.fetched) < fresh:
		return d.body, nil // a later attempt may have failed
	case !d.tried.IsZero() && now.Sub(d.tried) < keyRetry: // failed lately
	default:
		d.tried = now
		if body, err := k.fetch(ctx, address); err == nil {
			d.body, d.fetched, d.err = body, now, nil
		} else if d.err = err; !errors.Is(err, ErrNoKey) { // nobody has said that there is none
			d.err = fmt.Errorf("%w: %w: %w", ErrNoKey, verify.ErrKeyLater, err)
		}
	}
	return d.body, d.err
}

// entry finds or makes the place of a document. When there are too many, those without a body go first.
func (k *Keys) entry(address string) (*keyDoc, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.docs[address]; d != nil {
		return d, nil
	}
	if len(k.docs) >= maxKeyDocs {
		for a, d := range k.docs {
			if d.mu.TryLock() {
				empty := d.body == nil
				d.mu.Unlock()
				if empty {
					delete(k.docs, a)
				}
			}
		}
		if len(k.docs) >= maxKeyDocs {
			return nil, fmt.Errorf("%w: %w: too many different ones", ErrNoKey, verify.ErrKeyLater)
		}
	}
	d := &keyDoc{}
	k.docs[address] = d
	return d, nil
}

// fetch asks for what is at an address, or for the key of that id.
func (k *Keys) fetch(ctx context.Context, name string) ([]byte, error) {
	if k.ask != nil {
		return k.ask(ctx, name)
	}
	return k.get(ctx, name)
}

func (k *Keys) get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	return k.do(req)
}

// do sends one request and gives the body of a 200.
func (k *Keys) do(req *http.Request) ([]byte, error) {
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if req.URL.Scheme != "https" {
		return nil, errNotHTTPS
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if s := resp.StatusCode; s != http.StatusOK {
		answer := ErrNoKey
		if s >= 500 || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout {
			answer = verify.ErrKeyLater
		}
		return nil, because{"status " + strconv.Itoa(s), answer}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxKeyBytes || len(body) == 0 {
		return nil, errSize
	}
	return body, nil
}

// find gives the key of that id out of a JWK set (RFC 7517 §5), nil if it is not there exactly once. A set is read once, not for each request.
func (k *Keys) find(set []byte, id string) []byte {
	if len(set) == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.set) == 0 || &k.set[0] != &set[0] {
		k.set, k.byID = set, readJWKs(set)
	}
	return k.byID[id]
}

// readJWKs gives the keys of a set by their ids; nil for an id that is there twice.
func readJWKs(set []byte) map[string][]byte {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(set, &doc) != nil {
		return nil
	}
	keys := map[string][]byte{}
	for _, raw := range doc.Keys {
		var head struct {
			ID string `json:"kid"`
		}
		if json.Unmarshal(raw, &head) != nil {
			continue
		}
		if _, twice := keys[head.ID]; twice {
			raw = nil
		}
		keys[head.ID] = raw
	}
	return keys
}
