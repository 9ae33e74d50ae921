package verify

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
)

// parts is what a Spec with all or any consists of.
func (s *Spec) parts() []Spec { return append(s.All[:len(s.All):len(s.All)], s.Any...) }

// checkParts joins the faults of the parts.
func (s *Spec) checkParts() error {
	f := &faults{}
	f.oneOf("mode", s.Mode, "mode")
	if len(s.All) > 0 && len(s.Any) > 0 {
		f.add("all", "all and any exclude each other")
	}
	for i, p := range s.parts() {
		at := s.partName(i)
		switch {
		case len(p.All)+len(p.Any) > 0:
			f.add(at, "all and any cannot stand inside of each other")
			continue
		case p.Scheme == "none":
			f.add(at+".scheme", "none verifies nothing")
			continue
		case p.Mode != "":
			f.add(at+".mode", "stands at the top of verify")
		}
		f.errs = append(f.errs, inside(at, p.Check())...)
	}
	return errors.Join(f.errs...)
}

func (s *Spec) partName(i int) string {
	if len(s.All) > 0 {
		return fmt.Sprintf("all[%d]", i)
	}
	return fmt.Sprintf("any[%d]", i)
}

// inside puts the name of a part before the fields of its faults. Faults of secrets and keys stay where the user has them.
func inside(at string, err error) []error {
	var one *SpecError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, inside(at, e)...)
		}
		return out
	}
	if errors.As(err, &one) {
		if one.Field == "secrets" || one.Field == "public_keys" || one.Field == "public_url" {
			return []error{&SpecError{Field: one.Field, Problem: at + ": " + one.Problem}}
		}
		return []error{&SpecError{Field: at + "." + one.Field, Problem: one.Problem}}
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// compileParts compiles each part with the secrets and keys that it uses.
func compileParts(spec Spec, secrets []Secret, opts Options) (*Verifier, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	v := &Verifier{spec: spec, opts: opts, any: len(spec.Any) > 0, judge: (*Verifier).judgeParts}
	f := &faults{}
	for i, p := range spec.parts() {
		o := opts
		mine := chosen(p.Use, secrets, &f.errs, spec.partName(i))
		o.PublicKeys = chosen(p.UseKeys, opts.PublicKeys, &f.errs, spec.partName(i))
		part, err := Compile(p, mine, o)
		if err != nil {
			f.errs = append(f.errs, inside(spec.partName(i), err)...)
			continue
		}
		v.parts = append(v.parts, part)
	}
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	v.binds = v.joinedBinding()
	v.pool.New = func() any { return v.newState() }
	return v, nil
}

// chosen gives the elements with these numbers, counted from 1; all of them if no number is given.
func chosen[T any](numbers []int, all []T, errs *[]error, at string) []T {
	if len(numbers) == 0 {
		return all
	}
	var out []T
	for _, n := range numbers {
		if n < 1 || n > len(all) {
			*errs = append(*errs, &SpecError{Field: at, Problem: fmt.Sprintf("there is no number %d: %d are given", n, len(all))})
			continue
		}
		out = append(out, all[n-1])
	}
	return out
}

var bindingRank = []Binding{BindsNone, BindsOrigin, BindsCRC32, BindsBody}

// joinedBinding is the strongest of all, the weakest of any.
func (v *Verifier) joinedBinding() Binding {
	ranks := make([]int, len(v.parts))
	for i, p := range v.parts {
		ranks[i] = slices.Index(bindingRank, p.binds)
	}
	if v.any {
		return bindingRank[slices.Min(ranks)]
	}
	return bindingRank[slices.Max(ranks)]
}

// judgeParts wants one good part, or all of them. Every part is judged, whatever came of those before it.
func (v *Verifier) judgeParts(st *state) Verdict {
	var good, bad *Verdict
	for _, p := range v.parts {
		one := p.Verify(st.req, st.now)
		if p.binds == BindsOrigin { // the sender itself repeats it for other bodies
			one.MAC, one.Others = nil, nil
		}
		switch {
		case !one.OK && (bad == nil || v.any && one.Check == CheckKeys):
			bad = &one
		case one.OK && good == nil:
			good = &one
		case one.OK:
			if v.any {
				good.also(append(one.Others, one.MAC)...)
			} else {
				good.and(&one)
			}
			if good.SignedAt.IsZero() {
				good.SignedAt = one.SignedAt
			}
		}
	}
	if v.any && good != nil || bad == nil {
		return *good
	}
	return *bad
}

// every and some ask the parts.
func (v *Verifier) every(yes func(*Verifier) bool) bool {
	return !v.some(func(p *Verifier) bool { return !yes(p) })
}
func (v *Verifier) some(yes func(*Verifier) bool) bool { return slices.ContainsFunc(v.parts, yes) }

// joined says whether something holds for the whole: of any for every part, of all for one.
func (v *Verifier) joined(yes func(*Verifier) bool) bool {
	if v.any {
		return v.every(yes)
	}
	return v.some(yes)
}

// joinedTolerance is the longest of any (0 if one of them has none), the shortest of all.
func (v *Verifier) joinedTolerance() time.Duration {
	var out time.Duration
	for _, p := range v.parts {
		switch t := p.Tolerance(); {
		case t == 0 && v.any:
			return 0
		case t > 0 && (out == 0 || v.any == (t > out)):
			out = t
		}
	}
	return out
}

// signParts signs for the first of any, for each of all.
func (v *Verifier) signParts(req *event.Request, now time.Time) (*event.Request, error) {
	if v.any {
		return v.parts[0].Sign(req, now)
	}
	var err error
	for _, p := range v.parts {
		if req, err = p.Sign(req, now); err != nil {
			return nil, err
		}
	}
	return req, nil
}

// resignParts signs anew what is too old, for each part that has a time. Of all, each must be good then.
func (v *Verifier) resignParts(req *event.Request, now time.Time) (event.Head, bool) {
	again := *req
	done := false
	for _, p := range v.parts {
		if p.ResignAfter() == 0 {
			continue
		}
		head, ok := p.Resign(&again, now)
		if !ok && !v.any && !p.Verify(&again, now).OK {
			return nil, false
		}
		if ok {
			again.Head, done = head, true
		}
	}
	return again.Head, done
}

// explainParts explains each part.
func (v *Verifier) explainParts(req *event.Request, now time.Time) []Finding {
	var out []Finding
	for i, p := range v.parts {
		for _, f := range p.Explain(req, now) {
			f.Text = v.spec.partName(i) + ": " + f.Text
			out = append(out, f)
		}
	}
	return out
}

// compileCertificate reads the certificates that client certificates, and those of tokens, must be, or be issued by.
func (v *Verifier) compileCertificate(opts Options, f *faults) {
	v.roots = x509.NewCertPool()
	switch {
	case len(opts.PublicKeys) > 0, len(v.spec.KeyRoots) > 0:
	case v.loc.kind != "connection":
		f.add("public_keys", "the scheme needs the certificate of an issuer, or of the sender itself")
	case len(v.spec.Names) == 0:
		f.add("names", "every certificate that the port takes would do: say which names, or pin certificates under public_keys")
	}
	for i, text := range opts.PublicKeys {
		cert, err := parseCertificate([]byte(strings.TrimSpace(text)))
		if err != nil {
			f.add("public_keys", "number %d is not a certificate", i+1)
			continue
		}
		v.roots.AddCert(cert)
		v.pinned = append(v.pinned, cert)
	}
}

// parseCertificate reads a certificate as terminating proxies pass it on: RFC 9440 (:base64:), PEM, or percent-encoded PEM.
func parseCertificate(text []byte) (*x509.Certificate, error) {
	if len(text) > MaxHeader {
		return nil, errors.New("too large")
	}
	if inner, ok := strings.CutPrefix(string(text), ":"); ok {
		inner, ok = strings.CutSuffix(inner, ":")
		der, good := decode(nil, []byte(inner), "base64")
		if !ok || !good {
			return nil, errors.New("not base64")
		}
		return x509.ParseCertificate(der)
	}
	plain := string(text)
	if strings.Contains(plain, "%") {
		var err error
		if plain, err = url.PathUnescape(plain); err != nil {
			return nil, err
		}
	}
	der, err := certificateBlock([]byte(plain))
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// clientCertificate is the certificate of the connection, or the one that the proxy in front passes on.
func (v *Verifier) clientCertificate(st *state) (*x509.Certificate, Check) {
	if v.loc.kind == "connection" {
		if st.req.Cert == nil {
			return nil, CheckMissing
		}
		return st.req.Cert, CheckNone
	}
	if c := v.locate(st); c != CheckNone {
		return nil, c
	}
	cert, err := parseCertificate(st.raws[0])
	if err != nil {
		return nil, CheckMalformed
	}
	return cert, CheckNone
}

// judgeCertificate judges the client certificate: it must carry a name that is allowed, and be pinned, or issued by one that is, valid now and
// made for clients. Where none is pinned the handshake has checked all but the name.
func (v *Verifier) judgeCertificate(st *state) Verdict {
	cert, c := v.clientCertificate(st)
	if c != CheckNone {
		return fail(c)
	}
	if len(v.spec.Names) > 0 && !slices.ContainsFunc(v.spec.Names, func(name string) bool { return named(cert, name) }) {
		return fail(CheckSender)
	}
	if len(v.pinned) == 0 {
		return Verdict{OK: true, SecretIndex: -1}
	}
	for i, p := range v.pinned {
		if !p.IsCA && cert.Equal(p) && !st.now.Before(cert.NotBefore) && !st.now.After(cert.NotAfter) {
			return Verdict{OK: true, SecretIndex: i}
		}
	}
	if cert.IsCA {
		return fail(CheckSender)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: v.roots, Intermediates: x509.NewCertPool(), CurrentTime: st.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fail(CheckSender)
	}
	return Verdict{OK: true, SecretIndex: -1}
}

// named says whether a certificate carries a name: a DNS name, a URI, an e-mail address or the common name, exactly.
func named(cert *x509.Certificate, name string) bool {
	if slices.Contains(cert.DNSNames, name) || slices.Contains(cert.EmailAddresses, name) || cert.Subject.CommonName == name {
		return true
	}
	return slices.ContainsFunc(cert.URIs, func(u *url.URL) bool { return u.String() == name })
}
