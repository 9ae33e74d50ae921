package provider

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/verify"
)

// -mutations 10000 is the project's bar; it takes a minute.
var mutations = flag.Int("mutations", 1000, "changed requests per family of schemes")

// family is what a scheme has in common with others.
func family(p *Preset) string {
	switch p.Verify.Scheme {
	case "hmac":
		return "mac " + orPlain(p.Verify.Format)
	case "public_key":
		return "asymmetric"
	}
	return p.Verify.Scheme
}

func orPlain(format string) string {
	if format == "" {
		return "plain"
	}
	return format
}

// mutant is one genuine request and what of it the signature covers.
type mutant struct {
	v     Vector
	ver   *verify.Verifier
	req   *event.Request
	mac   []byte
	whole bool     // every byte of the body is covered
	heads []string // headers that are covered, beside the signature's own
	sig   []string // headers that hold it
	text  []byte   // the signature or token itself, where it is in the body or the URL
}

func mutants(t *testing.T) map[string][]mutant {
	out := map[string][]mutant{}
	for _, v := range validVectors(t) {
		p, ok := Get(v.Provider)
		if !ok {
			t.Fatal(v.Provider)
		}
		ver, err := v.Verifier()
		if err != nil {
			t.Fatal(err)
		}
		req, err := v.Request()
		if err != nil {
			t.Fatal(err)
		}
		verdict := ver.Verify(req, time.Unix(v.Now, 0))
		if !verdict.OK {
			t.Fatalf("%s/%s: %s", v.Provider, v.Name, verdict.Check)
		}
		s := &p.Verify
		m := mutant{v: v, ver: ver, req: req, mac: verdict.MAC}
		m.whole = strings.Contains(s.Signed, "{body}") || s.BodyClaim != ""
		if name, ok := strings.CutPrefix(s.Timestamp, "header:"); ok && !strings.Contains(name, "{") {
			m.heads = append(m.heads, name)
		}
		if s.ID != "" {
			m.heads = append(m.heads, s.ID)
		}
		for _, h := range placeholderHeaders(s.Signed) {
			if _, n := req.Head.Get(h); n == 1 {
				m.heads = append(m.heads, h)
			}
		}
		switch {
		case s.Scheme == "http_signature":
			m.sig = []string{"Signature"}
		case s.Header != "" && len(s.Also) == 0: // a second header may hold a good one
			m.sig = []string{s.Header}
		case s.Location == "bearer" || s.Location == "basic" || strings.HasPrefix(s.Location, "authorization:"):
			m.sig = []string{"Authorization"}
		}
		m.text = inside(s, &v)
		if m.whole && len(req.Body) > 0 || len(m.heads)+len(m.sig)+len(m.text) > 0 {
			out[family(&p)] = append(out[family(&p)], m)
		}
	}
	return out
}

// inside gives the signature or token as it is written in the body or in the URL; nil if it is in a header.
func inside(s *verify.Spec, v *Vector) []byte {
	kind, name, _ := strings.Cut(s.Location, ":")
	if param, ok := strings.CutPrefix(name, "{config:"); ok {
		name, _ = v.Config[strings.TrimSuffix(param, "}")].(string)
	}
	within, begin, end := v.Body, name+"=", "&"
	switch kind {
	case "body":
		return []byte(v.Body)
	case "json": // as it is, or inside of a form
		member := regexp.MustCompile(name[strings.LastIndexByte(name, '.')+1:] + `(?:"|%22)\s*(?::|%3A)(?:\s|\+|%20)*(?:"|%22)([^"%]+)`).FindStringSubmatch(v.Body)
		if member == nil {
			return nil
		}
		return []byte(member[1])
	case "query":
		_, within, _ = strings.Cut(v.URL, "?")
	case "form":
	default:
		return nil
	}
	_, after, _ := strings.Cut(within, begin)
	text, _, _ := strings.Cut(after, end)
	return []byte(text)
}

// meansMore says whether a changed text may mean the same, or something else than a text, in JSON, a query or a form.
func meansMore(b []byte) bool {
	return bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"\&=%+#;?`, r) })
}

// placeholderHeaders are the names in {header:Name} of a template.
func placeholderHeaders(signed string) []string {
	var out []string
	for rest := signed; ; {
		_, after, found := strings.Cut(rest, "{header:")
		if !found {
			return out
		}
		name, more, _ := strings.Cut(after, "}")
		if !strings.ContainsAny(name, "?|") {
			out = append(out, name)
		}
		rest = more
	}
}

// change makes one small change: a bit, a byte more, a byte less, two bytes swapped, a piece doubled.
func change(rng *rand.Rand, b []byte) []byte {
	out := bytes.Clone(b)
	if len(out) == 0 {
		return []byte{byte(rng.IntN(256))}
	}
	i := rng.IntN(len(out))
	switch rng.IntN(5) {
	case 0:
		out[i] ^= 1 << rng.IntN(8)
	case 1:
		out = slices.Insert(out, i, byte(rng.IntN(256)))
	case 2:
		out = slices.Delete(out, i, i+1)
	case 3:
		j := rng.IntN(len(out))
		out[i], out[j] = out[j], out[i]
	default:
		out = slices.Concat(out[:i], out[i:], out[i:])
	}
	return out
}

// credentials are what an Authorization header means (RFC 9110 §11.4): the scheme in any case, spaces, the rest.
func credentials(b []byte) string {
	scheme, rest, _ := bytes.Cut(b, []byte{' '})
	return strings.ToLower(string(scheme)) + " " + string(event.TrimSpace(rest))
}

// A genuine request with one small change is never accepted: not its body where the body is covered, not what else is signed, and of the
// signature itself only what still means the same signature.
func TestNoSmallChangeIsAcceptedInAnyFamily(t *testing.T) {
	families := mutants(t)
	for _, p := range All() {
		if p.Verify.Scheme != "" && p.Verify.Scheme != "none" && p.ID != "custom" && !slices.ContainsFunc(families[family(&p)], func(m mutant) bool { return m.v.Provider == p.ID }) {
			t.Errorf("nothing of a request of %s is changed", p.ID)
		}
	}
	for name, list := range families {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(len(name)), 7))
			for tried := 0; tried < *mutations; tried++ {
				m := &list[rng.IntN(len(list))]
				req, what := *m.req, ""
				pick := func(heads []string) {
					what = heads[rng.IntN(len(heads))]
					old, _ := m.req.Head.Get(what)
					next := change(rng, old)
					respelt := what == "Authorization" && credentials(next) == credentials(old)
					if respelt || bytes.ContainsAny(next, "\r\n\x00") || bytes.Equal(event.TrimSpace(next), old) {
						next = append(bytes.Clone(old), '0')
					}
					req.Head = nil
					for k, val := range m.req.Head.All() {
						if strings.EqualFold(string(k), what) {
							val = next
						}
						req.Head = req.Head.Append(string(k), val)
					}
				}
				switch {
				case len(m.text) > 0 && rng.IntN(2) == 0:
					what = "the signature inside"
					next := change(rng, m.text)
					if bytes.Equal(next, m.text) || meansMore(next) && m.v.Body != string(m.text) {
						next = append(bytes.Clone(m.text), '0')
					}
					req.Body, req.Target = bytes.Replace(req.Body, m.text, next, 1), bytes.Replace(req.Target, m.text, next, 1)
				case m.whole && len(m.req.Body) > 0 && rng.IntN(3) == 0:
					what = "body"
					if req.Body = change(rng, m.req.Body); bytes.Equal(req.Body, m.req.Body) {
						req.Body = append(req.Body, ' ')
					}
				case len(m.heads) > 0 && (len(m.sig) == 0 || rng.IntN(2) == 0):
					pick(m.heads)
				case len(m.sig) > 0:
					pick(m.sig)
				default:
					tried-- // nothing to change in the dice's way: the body is
					continue
				}
				got := m.ver.Verify(&req, time.Unix(m.v.Now, 0))
				same := len(m.mac) > 0 && bytes.Equal(got.MAC, m.mac) && (slices.Contains(m.sig, what) || what == "the signature inside")
				if got.OK && !same && !(m.v.Provider == "mercadopago" || m.v.Provider == "braintree") {
					t.Fatalf("%s/%s: a change of %s is accepted:\n%s\n%q", m.v.Provider, m.v.Name, what, req.Head, req.Body)
				}
			}
		})
	}
}
