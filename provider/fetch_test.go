package provider

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/verify"
)

// keyServer answers with what is at the path; the returned Keys trusts it, and may connect to loopback.
func keyServer(t *testing.T, jwks string, handler http.HandlerFunc) (*Keys, string) {
	t.Helper()
	srv := httptest.NewTLSServer(handler)
	t.Cleanup(srv.Close)
	k := newKeys("")
	if jwks != "" {
		k.jwks = srv.URL + jwks
	}
	redirect := k.client.CheckRedirect
	k.client = srv.Client()
	k.client.CheckRedirect = redirect
	return k, srv.URL
}

func TestKeysAreFetchedOnceForAllWhoWait(t *testing.T) {
	var calls atomic.Int32
	k, base := keyServer(t, "", func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		_, _ = w.Write([]byte("pem"))
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if b, err := k.Key(context.Background(), base+"/a.pem"); err != nil || string(b) != "pem" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("%d requests", calls.Load())
	}
}

func TestAnOldKeyIsUsedWhileANewOneCannotBeHad(t *testing.T) {
	var broken atomic.Bool
	k, base := keyServer(t, "", func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte("pem"))
	})
	if _, err := k.Key(context.Background(), base+"/a"); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	d := k.docs[base+"/a"]
	d.fetched, d.tried = time.Now().Add(-2*keyFresh), time.Now().Add(-2*keyFresh)
	if b, err := k.Key(context.Background(), base+"/a"); err != nil || string(b) != "pem" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := k.Key(context.Background(), base+"/b"); !errors.Is(err, ErrNoKey) {
		t.Errorf("%v", err)
	}
}

// That nobody could be asked is no word of the sender: who asks again later may get the key.
func TestAKeyThatCannotBeHadNowIsNotUnknown(t *testing.T) {
	k, base := keyServer(t, "", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.WriteHeader(status)
	})
	for address, later := range map[string]bool{
		base + "/500": true, base + "/503": true, base + "/429": true, base + "/408": true, "https://keys..invalid/a": true,
		base + "/404": false, base + "/403": false, base + "/204": false, base + "/302": false, "http://keys..invalid/a": false,
	} {
		for range 2 { // the second time nobody is asked
			if _, err := k.Key(context.Background(), address); !errors.Is(err, ErrNoKey) || errors.Is(err, verify.ErrKeyLater) != later {
				t.Errorf("%s: %v", address, err)
			}
		}
	}
	for i := range maxKeyDocs {
		k.docs[strconv.Itoa(i)] = &keyDoc{body: []byte("pem")}
	}
	if _, err := k.Key(context.Background(), base+"/one-more"); !errors.Is(err, verify.ErrKeyLater) {
		t.Errorf("beyond what is remembered: %v", err)
	}
}

func TestKeysRefuseWhatIsNotSafe(t *testing.T) {
	k, base := keyServer(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/a", http.StatusFound)
		case "/large":
			_, _ = w.Write(make([]byte, maxKeyBytes+1))
		}
	})
	for _, name := range []string{base + "/redirect", base + "/large", base + "/empty", strings.Replace(base, "https", "http", 1) + "/a", "file:///etc/passwd"} {
		if _, err := k.Key(context.Background(), name); !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, address := range []string{"127.0.0.1:443", "10.0.0.1:443", "169.254.169.254:443", "[::1]:443", "[::ffff:10.0.0.1]:443", "[fd00::1]:443", "100.64.0.1:443", "0.0.0.0:443", "[64:ff9b::a00:1]:443", "224.0.0.1:443"} {
		if publicOnly("tcp", address, nil) == nil {
			t.Errorf("%s may be connected to", address)
		}
	}
	if err := publicOnly("tcp", "93.184.216.34:443", nil); err != nil {
		t.Error(err)
	}
}

func TestAKeyOfASetIsFoundByItsID(t *testing.T) {
	var calls atomic.Int32
	k, _ := keyServer(t, "/jwks", func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		_, _ = w.Write([]byte(`{"keys":[{"kid":"a","kty":"RSA"},{"kid":"b"},{"kid":"b"}]}`))
	})
	if b, err := k.Key(context.Background(), "a"); err != nil || !strings.Contains(string(b), "RSA") {
		t.Errorf("%s, %v", b, err)
	}
	for _, id := range []string{"b", "c", "d", "e"} {
		if _, err := k.Key(context.Background(), id); !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("unknown ids made %d requests", calls.Load())
	}
}

// A key that is not in an old set may be in the one that cannot be had.
func TestAnIDThatAnOldSetDoesNotKnow(t *testing.T) {
	var broken atomic.Int32
	k, _ := keyServer(t, "/jwks", func(w http.ResponseWriter, _ *http.Request) {
		if status := broken.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		_, _ = w.Write([]byte(`{"keys":[{"kid":"a","kty":"RSA"}]}`))
	})
	look := func(when, id string, known, later bool) {
		t.Helper()
		if _, err := k.Key(context.Background(), id); (err == nil) != known || errors.Is(err, verify.ErrKeyLater) != later {
			t.Errorf("%s, %s: %v", when, id, err)
		}
	}
	aged := func(by time.Duration) {
		d := k.docs[k.jwks]
		d.fetched, d.tried = d.fetched.Add(-by), d.tried.Add(-by)
	}
	look("fresh", "a", true, false)
	look("fresh", "new", false, false)
	broken.Store(503)
	look("asked lately", "new", false, false)
	aged(2 * keyRetry)
	for range 2 { // the second time nobody is asked
		look("no answer", "new", false, true)
		look("no answer", "a", true, false)
	}
	aged(2 * keyFresh)
	look("no answer for long", "new", false, true)
	look("no answer for long", "a", true, false)
	broken.Store(404)
	aged(2 * keyRetry)
	look("withdrawn", "new", false, false)
	broken.Store(0)
	aged(2 * keyRetry)
	look("again", "new", false, false)
}

func TestWhichPresetsFetchKeys(t *testing.T) {
	params := map[string]string{"issuer": "https://acme.kinde.com"}
	for id, want := range map[string]bool{"aws-sns": true, "paypal": true, "google-pubsub": true, "kinde": true, "github": false, "plaid": false, "ebay": false} {
		p, _ := Get(id)
		if _, got := p.KeySources(params)(&p.Verify).(*Keys); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
	account := map[string]string{"client_id": "id", "client_secret": "secret"}
	for _, id := range []string{"plaid", "ebay"} {
		p, _ := Get(id)
		if _, ok := p.KeySources(account)(&p.Verify).(*Keys); !ok {
			t.Errorf("%s does not fetch keys with an account", id)
		}
	}
	kinde, _ := Get("kinde")
	for issuer, fault := range map[string]string{"": `needs the parameter "issuer"`, "http://acme.kinde.com": "not an https URL"} {
		p := map[string]string{"issuer": issuer}
		if _, err := verify.Compile(kinde.Verify, nil, verify.Options{Params: p, Keys: kinde.KeySources(p)}); err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("kinde with issuer %q: %v", issuer, err)
		}
	}
}

// Plaid gives keys to those who have an account, one by one; asking twice for one key makes one request.
func TestPlaidsKeysAreFetchedWithTheAccount(t *testing.T) {
	const key = `{"kty":"EC","crv":"P-256","kid":"k1","x":"AA","y":"AA"}`
	var calls atomic.Int32
	k, base := keyServer(t, "", func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/webhook_verification_key/get" || string(body) != `{"client_id":"id","key_id":"k1","secret":"pw"}` {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		_, _ = w.Write([]byte(`{"request_id":"r","key":` + key + `}`))
	})
	s := &keyService{keys: k, base: base, client: "id", password: "pw"}
	k.ask = s.plaid
	for range 2 {
		if b, err := k.Key(context.Background(), "k1"); err != nil || string(b) != key {
			t.Errorf("%s, %v", b, err)
		}
	}
	for _, name := range []string{"k2", "../../x", "", strings.Repeat("k", 200)} {
		if _, err := k.Key(context.Background(), name); !errors.Is(err, ErrNoKey) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if calls.Load() != 2 {
		t.Errorf("%d requests", calls.Load())
	}
}

// eBay wants an application token first, and gives its PEM block on one line.
func TestEbaysKeysAreFetchedWithAnApplicationToken(t *testing.T) {
	var tokens, keys atomic.Int32
	k, base := keyServer(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch user, pw, _ := r.BasicAuth(); {
		case r.URL.Path == "/identity/v1/oauth2/token" && user == "id" && pw == "pw":
			tokens.Add(1)
			_, _ = w.Write([]byte(`{"access_token":"t0k","expires_in":7200,"token_type":"Application Access Token"}`))
		case strings.HasPrefix(r.URL.Path, "/commerce/notification/v1/public_key/k") && r.Header.Get("Authorization") == "Bearer t0k":
			keys.Add(1)
			_, _ = w.Write([]byte(`{"algorithm":"ECDSA","digest":"SHA1","key":"-----BEGIN PUBLIC KEY-----MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE-----END PUBLIC KEY-----"}`))
		default:
			http.Error(w, "no", http.StatusForbidden)
		}
	})
	s := &keyService{keys: k, base: base, client: "id", password: "pw"}
	k.ask = s.ebay
	for _, name := range []string{"k1", "k2", "k1"} {
		if b, err := k.Key(context.Background(), name); err != nil || !strings.Contains(string(b), "-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END") {
			t.Errorf("%s, %v", b, err)
		}
	}
	if tokens.Load() != 1 || keys.Load() != 2 {
		t.Errorf("%d tokens, %d keys", tokens.Load(), keys.Load())
	}
}

// A subscription is confirmed under the rules of keys.
func TestVisitWantsA200(t *testing.T) {
	k, base := keyServer(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			_, _ = w.Write([]byte("<ConfirmSubscriptionResponse/>"))
			return
		}
		http.Redirect(w, r, "/", http.StatusFound)
	})
	if err := k.Visit(base + "/?Action=ConfirmSubscription"); err != nil {
		t.Error(err)
	}
	for why, err := range map[string]error{"status 302": k.Visit(base + "/elsewhere"), "is not a public address": NewKeys().Visit(base + "/")} {
		if err == nil || !strings.HasSuffix(err.Error(), why) || strings.Contains(err.Error(), "key") {
			t.Errorf("a redirect or a private address: %v, want %s", err, why)
		}
	}
}

func TestConfirmationsGoToAmazonOnly(t *testing.T) {
	const topic = "arn:aws:sns:us-east-1:123456789012:MyTopic"
	good := "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + topic + "&Token=2336"
	if !confirmation(good, topic) {
		t.Error("a genuine one is refused")
	}
	for _, bad := range []string{
		strings.Replace(good, "https", "http", 1), strings.Replace(good, "sns.", "s3.", 1), strings.Replace(good, "amazonaws.com", "amazonaws.com.evil.example", 1),
		strings.Replace(good, "ConfirmSubscription", "Unsubscribe", 1), strings.Replace(good, "MyTopic", "Other", 1), strings.Replace(good, "https://", "https://a@", 1),
		strings.Replace(good, ".com/", ".com:8443/", 1), strings.Replace(good, ".com/", ".com/x", 1), good + "&Action=Publish", good + "#x", "", "::",
	} {
		if confirmation(bad, topic) {
			t.Errorf("%s is trusted", bad)
		}
	}
}

// A key server that is down while the configuration is read again makes no difference.
func TestKeysOutliveAReload(t *testing.T) {
	p := Preset{Verify: verify.Spec{Scheme: "jwt", Key: "key_id", JWKS: "https://a.example/keys"}}
	other := p
	other.Verify.JWKS = "https://b.example/keys"
	var s KeyStore
	first := s.Sources("one", p, nil)(&p.Verify)
	if s.Sources("two", p, nil)(&p.Verify) == first {
		t.Error("two sources share what senders can fill up")
	}
	s.Settle()
	if s.Sources("one", p, map[string]string{"client_id": "x"})(&p.Verify) == first || s.Sources("one", other, nil)(&other.Verify) == first {
		t.Error("keys of another place")
	}
	if s.Sources("one", p, nil)(&p.Verify) != first {
		t.Error("a reload has forgotten the keys")
	}
	s.Settle()
	s.Settle() // the source is gone
	if s.Sources("one", p, nil)(&p.Verify) == first {
		t.Error("what nobody uses any more is kept")
	}
	if none := s.Sources("one", Preset{}, nil)(new(verify.Spec)); none != nil {
		t.Errorf("keys from nowhere: %v", none)
	}
}

// Anybody can name a key that is none: the set was read twice for each such request, a large one for two milliseconds.
func TestAKeySetIsReadOnce(t *testing.T) {
	set := `{"keys":[{"kid":"twice"},{"kid":"a","n":1},{"kid":"twice"}` + strings.Repeat(`,{"kid":"b"}`, 100) + `]}`
	k, _ := keyServer(t, "/jwks", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, set) })
	ctx := context.Background()
	if key, err := k.Key(ctx, "a"); string(key) != `{"kid":"a","n":1}` {
		t.Fatalf("%s, %v", key, err)
	}
	if n := testing.AllocsPerRun(50, func() {
		for _, id := range []string{"none", "twice"} {
			if key, err := k.Key(ctx, id); key != nil || !errors.Is(err, ErrNoKey) {
				t.Fatalf("%s: %s, %v", id, key, err)
			}
		}
	}); n > 10 {
		t.Errorf("%g allocations for two keys that are none", n)
	}
}
