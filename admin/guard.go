package admin

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Browsers are kept out in three ways: the Host must be one of ours (a page whose name was rebound to this address sends its own name),
// a request that a page of another origin makes is refused whatever it asks for, and a mutation must say that its body is JSON, which
// a plain form cannot. There are no cookies, so nothing is sent along without the page knowing the token.

func hostSet(names []string) map[string]bool {
	set := map[string]bool{"localhost": true}
	for _, n := range names {
		if h := hostname(n); h != "" && !unspecified(h) {
			set[h] = true
		}
	}
	return set
}

// hostname cuts the port and the brackets of an address, and folds case.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func unspecified(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsUnspecified()
}

// hostAllowed says whether the Host header names this port: localhost, a loopback address, a name of Options.AllowedHosts, or the address
// that the connection was made to. A listener that other hosts can reach may stand behind an address translation, so there any address
// literal will do: a literal cannot be rebound. HTTP/1.0 knows requests without a Host (HAProxy's checks are such); no browser makes them.
func (s *Server) hostAllowed(r *http.Request) bool {
	host := hostname(r.Host)
	if s.hosts[host] || r.Host == "" && !r.ProtoAtLeast(1, 1) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if addr.Unmap().IsLoopback() || s.public.Load() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && hostname(local.String()) == addr.Unmap().String()
}

// crossOrigin says whether a browser made the request for a page of another origin.
func crossOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origin, sent := r.Header["Origin"]
	if !sent {
		return false
	}
	if len(origin) != 1 {
		return true
	}
	u, err := url.Parse(origin[0])
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host)
}

// isJSON says whether the request's body is declared as JSON, in UTF-8.
func isJSON(r *http.Request) bool {
	values := r.Header["Content-Type"]
	if len(values) != 1 {
		return false
	}
	kind, params, err := mime.ParseMediaType(values[0])
	if err != nil || kind != "application/json" {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}
