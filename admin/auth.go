package admin

import (
	"crypto/subtle"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/admin/api"
)

// scopes lists every scope that a token may have.
var scopes = api.Scopes

// caller is who makes a call.
type caller struct {
	name   string
	scopes []string
}

func (c *caller) may(scope string) bool { return slices.Contains(c.scopes, scope) }

// authenticate finds the caller of a request. Every token is compared, in constant time, whatever comes out, so that the time tells
// neither how many there are nor how far one matched. Without tokens everyone is "local".
func (s *Server) authenticate(r *http.Request) (caller, *problem) {
	tokens := *s.tokens.Load()
	if len(tokens) == 0 {
		return caller{name: "local", scopes: scopes}, nil
	}
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return caller{}, fail(http.StatusUnauthorized, "a bearer token is needed")
	}
	scheme, secret, _ := strings.Cut(values[0], " ")
	if len(values) == 1 && strings.EqualFold(scheme, "Bearer") {
		if t := match(tokens, HashToken([]byte(secret))); t != nil {
			return caller{name: t.Name, scopes: t.Scopes}, nil
		}
	}
	if wait := s.logins.failed(peer(r), now()); wait > 0 {
		return caller{}, fail(http.StatusTooManyRequests, "too many failed logins from this address").retry(wait)
	}
	return caller{}, fail(http.StatusUnauthorized, "the token is not known")
}

func match(tokens []Token, hash [32]byte) *Token {
	found := -1
	for i := range tokens {
		same := subtle.ConstantTimeCompare(hash[:], tokens[i].Hash[:])
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	if found < 0 {
		return nil
	}
	return &tokens[found]
}

func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Failed logins of one address: a burst, then one in a while. A token that is right is never refused, so that nobody can lock others out.
const (
	loginBurst = 100 // a client that goes on with an old token still hears 401 for a while
	loginEvery = 6 * time.Second
	loginPeers = 1024 // addresses remembered
)

// loginLimit counts failed logins. The zero value is ready.
type loginLimit struct {
	mu    sync.Mutex
	peers map[string]time.Time // when the address has no failures left to pay for
}

// failed notes a failed login and says how long the address must wait before its next one is answered; 0 = not at all.
func (l *loginLimit) failed(peer string, at time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers == nil || len(l.peers) >= loginPeers {
		l.forget(at)
	}
	free := l.peers[peer]
	if free.Before(at) {
		free = at
	}
	if over := free.Sub(at) - (loginBurst-1)*loginEvery; over > 0 {
		return over
	}
	l.peers[peer] = free.Add(loginEvery)
	return 0
}

// forget drops addresses that have paid, and all if there are still too many.
func (l *loginLimit) forget(at time.Time) {
	kept := map[string]time.Time{}
	for p, free := range l.peers {
		if free.After(at) {
			kept[p] = free
		}
	}
	if len(kept) >= loginPeers {
		clear(kept)
	}
	l.peers = kept
}
