package verify

import (
	"bytes"
	"net"
	"net/url"
	"strings"
)

// publicURL is how senders know us.
type publicURL struct {
	scheme, authority string // authority without the scheme's default port, lower case
	path              string // what stands before the request's target
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

func (v *Verifier) compileURL(opts Options, f *faults) {
	if opts.PublicURL == "" {
		if v.spec.SignsURL() {
			f.add("public_url", "the scheme signs the request's URL: say what senders call (https://host)")
		}
		return
	}
	u, err := url.Parse(opts.PublicURL)
	if err != nil || u.Host == "" || defaultPorts[u.Scheme] == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		f.add("public_url", "%q is not scheme://host", opts.PublicURL)
		return
	}
	base := strings.TrimSuffix(opts.PublicURL, "/")
	v.bases = []string{base}
	if v.spec.URL == "port_variants" {
		v.bases = portVariants(base, u)
	}
	v.authURL = publicURL{u.Scheme, strings.TrimSuffix(strings.ToLower(u.Host), ":"+defaultPorts[u.Scheme]), strings.TrimSuffix(u.EscapedPath(), "/")}
}

// portVariants is the URL as given, without its port, and with the scheme's default port.
func portVariants(base string, u *url.URL) []string {
	bare, with := *u, *u
	bare.Host = u.Hostname()
	if strings.Contains(bare.Host, ":") {
		bare.Host = "[" + bare.Host + "]"
	}
	with.Host = net.JoinHostPort(u.Hostname(), defaultPorts[u.Scheme])
	if u.Port() != "" {
		with.Host = u.Host
	}
	out := []string{base}
	for _, x := range []string{strings.TrimSuffix(bare.String(), "/"), strings.TrimSuffix(with.String(), "/")} {
		if x != base && (len(out) < 2 || out[1] != x) {
			out = append(out, x)
		}
	}
	return out
}

// buildURL writes variant i of the public URL of the request into the state.
func (v *Verifier) buildURL(st *state, i int) {
	if len(v.bases) == 0 {
		return
	}
	st.urlBuf = append(append(st.urlBuf[:0], v.bases[i]...), st.req.Target...)
	st.url = st.urlBuf
	if v.spec.URL == "decoded" {
		st.url = decodeReserved(st.urlBuf)
	}
}

// decodeReserved percent-decodes the characters : / ? @ ! $ ' ( ) * , ; and leaves every other escape alone.
func decodeReserved(b []byte) []byte {
	if bytes.IndexByte(b, '%') < 0 {
		return b
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '%' && i+2 < len(b) {
			if c, err := url.PathUnescape(string(b[i : i+3])); err == nil && strings.Contains(":/?@!$'()*,;", c) {
				out = append(out, c...)
				i += 2
				continue
			}
		}
		out = append(out, b[i])
	}
	return out
}
