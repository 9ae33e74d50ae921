package provider

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

func TestWhichPresetsFetchKeys(t *testing.T) {
	params := map[string]string{"issuer": "https://acme.kinde.com"}
	for id, want := range map[string]bool{"aws-sns": true, "paypal": true, "google-pubsub": true, "kinde": true, "github": false, "plaid": false, "ebay": false} {
		p, _ := Get(id)
		if got := p.KeySource(params) != nil; got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
	if p, _ := Get("kinde"); p.KeySource(nil) != nil {
		t.Error("kinde without an issuer fetches keys from somewhere")
	}
}
