package provider

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/verify"
)

// Vector is one captured or made-up request with all that judging it takes: an element of testdata/vectors.json.
type Vector struct {
	Provider   string                     `json:"provider"`
	Name       string                     `json:"name"`
	Method     string                     `json:"method"`
	URL        string                     `json:"url"`
	Headers    map[string]headerValues    `json:"headers"`
	Body       string                     `json:"body"`
	BodyBase64 string                     `json:"body_base64"`
	Secrets    []string                   `json:"secrets"`
	PublicKey  string                     `json:"public_key"`
	RemoteKeys map[string]json.RawMessage `json:"remote_keys"`
	Config     map[string]any             `json:"config"`
	Now        int64                      `json:"now"`
	Expect     string                     `json:"expect"`
	Why        string                     `json:"why"`
}

// headerValues is one value, or several lines of one name.
type headerValues []string

// UnmarshalJSON takes a string or a list of strings.
func (h *headerValues) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*h = headerValues{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(h))
}

// Judged is the verdict on one vector, a line of `hooktender verify --vectors`.
type Judged struct {
	Provider string `json:"provider"`
	Name     string `json:"name"`
	Verdict  string `json:"verdict"` // valid or invalid
	Why      string `json:"why"`
}

// JudgeVectors reads a JSON array of Vectors and judges one after the other. An unknown provider or an impossible
// configuration is invalid, with why. An error ends the sequence: the input is no such array.
func JudgeVectors(r io.Reader) iter.Seq2[Judged, error] {
	return func(yield func(Judged, error) bool) {
		dec := json.NewDecoder(r)
		if t, err := dec.Token(); err != nil || t != json.Delim('[') {
			yield(Judged{}, errors.New("vectors: not a JSON array"))
			return
		}
		for n := 1; dec.More(); n++ {
			var v Vector
			if err := dec.Decode(&v); err != nil {
				yield(Judged{}, fmt.Errorf("vectors: element %d: %w", n, err))
				return
			}
			if !yield(v.Judge(), nil) {
				return
			}
		}
		if _, err := dec.Token(); err != nil {
			yield(Judged{}, fmt.Errorf("vectors: %w", err))
		}
	}
}

// Judge compiles the preset with the vector's secrets and verifies the request at the vector's time.
func (v *Vector) Judge() Judged {
	out := Judged{Provider: v.Provider, Name: v.Name, Verdict: "invalid"}
	ver, err := v.Verifier()
	if err != nil {
		out.Why = oneLine(err)
		return out
	}
	req, err := v.Request()
	if err != nil {
		out.Why = oneLine(err)
		return out
	}
	verdict := ver.Verify(req, time.Unix(v.Now, 0))
	if verdict.OK {
		out.Verdict, out.Why = "valid", "binds "+string(verdict.Binds)
		return out
	}
	out.Why = verdict.Check.String()
	return out
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Verifier compiles the preset of the vector.
func (v *Vector) Verifier() (*verify.Verifier, error) {
	p, ok := Get(v.Provider)
	if !ok {
		return nil, fmt.Errorf("unknown provider %q", v.Provider)
	}
	spec := p.Verify
	opts := verify.Options{Params: map[string]string{}}
	for k, val := range v.Config {
		switch x := val.(type) {
		case string:
			opts.Params[k] = x
		case []any:
			if k == "required" {
				spec.Components = nil
				for _, c := range x {
					spec.Components = append(spec.Components, fmt.Sprint(c))
				}
			}
		}
	}
	if spec.Scheme == "http_signature" {
		spec.KeyID = opts.Params["keyid"]
		if alg := opts.Params["alg"]; alg != "" {
			spec.Algorithm = alg
		}
	}
	var secrets []verify.Secret
	for _, s := range v.Secrets {
		secrets = append(secrets, verify.NewSecret([]byte(s)))
	}
	if v.PublicKey != "" {
		opts.PublicKeys = []string{v.PublicKey}
	}
	if v.RemoteKeys != nil {
		opts.Keys = v.keys().Any
	}
	opts.PublicURL = opts.Params["public_url"]
	if u, err := url.Parse(v.URL); err == nil && opts.PublicURL == "" && u.Host != "" {
		opts.PublicURL = u.Scheme + "://" + u.Host
	}
	return verify.Compile(spec, secrets, opts)
}

func (v *Vector) keys() verify.StaticKeys {
	keys := verify.StaticKeys{}
	for name, raw := range v.RemoteKeys {
		var pem string
		if json.Unmarshal(raw, &pem) == nil {
			keys[name] = []byte(pem)
		} else {
			keys[name] = raw
		}
	}
	return keys
}

// Request is the request of the vector. Header names come in sorted order, as JSON objects have none.
func (v *Vector) Request() (*event.Request, error) {
	rest, ok := strings.CutPrefix(v.URL, "https://")
	tls := ok
	if !ok {
		if rest, ok = strings.CutPrefix(v.URL, "http://"); !ok {
			return nil, fmt.Errorf("url %q is not http or https", v.URL)
		}
	}
	host, target := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, target = rest[:i], rest[i:]
	}
	if target[0] == '?' {
		target = "/" + target
	}
	req := &event.Request{Method: v.Method, Target: []byte(target), Host: []byte(host), Body: []byte(v.Body), TLS: tls}
	if v.BodyBase64 != "" {
		body, err := base64.StdEncoding.DecodeString(v.BodyBase64)
		if err != nil {
			return nil, fmt.Errorf("body_base64: %w", err)
		}
		req.Body = body
	}
	names := make([]string, 0, len(v.Headers))
	for name := range v.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range v.Headers[name] {
			if strings.ContainsAny(name+value, "\r\n") {
				return nil, fmt.Errorf("header %q has a line break", name)
			}
			req.Head = req.Head.AppendString(name, value)
		}
	}
	return req, nil
}
