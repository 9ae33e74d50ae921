package verify

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// hasher is a keyed or plain hash that is reset and used again.
type hasher = hash.Hash

// state is what one verification needs, pooled: nothing of it outlives Verify.
type state struct {
	req  *event.Request
	now  time.Time
	doc  []byte // the JSON document: the body, a form field, or one item
	json []selector.JSONValue

	stamp, id, url, secret []byte
	host, prefix           string // of the public URL: scheme's default port left out; its path
	stampHeader            string // that the scheme's timestamp is in
	hashed                 bool   // body_hash is present: {form_sorted} is empty
	buf, msg, dec, urlBuf  []byte
	small                  []byte // pieces of the message that are not written yet
	raws                   [][]byte
	cands                  []candidate
	macs                   []hasher // one per secret; of a digest, one
	sum                    [64]byte
	kid                    []byte
}

// candidate is one signature that the request offers.
type candidate struct {
	sig   []byte
	stamp []byte // its own timestamp; nil if the scheme has none in the header
}

func (v *Verifier) newState() *state {
	st := &state{json: make([]selector.JSONValue, len(v.paths)), cands: make([]candidate, 0, 4), raws: make([][]byte, 0, 2), host: v.authURL.authority, prefix: v.authURL.path}
	if v.stamp.kind == "header" {
		st.stampHeader = v.stamp.name
	}
	switch v.spec.Scheme {
	case "hmac":
		for _, k := range v.secrets {
			st.macs = append(st.macs, hmac.New(hashOf(v.spec.Algorithm), k))
		}
	case "digest":
		st.macs = append(st.macs, hashOf(v.spec.Algorithm)())
	}
	return st
}

func hashOf(algorithm string) func() hash.Hash {
	switch algorithm {
	case "md5":
		return md5.New
	case "sha1":
		return sha1.New
	case "sha384":
		return sha512.New384
	case "sha512":
		return sha512.New
	}
	return sha256.New
}

// reset forgets the request. Buffers that one large request made large are let go.
func (st *state) reset() {
	clear(st.json)
	clear(st.raws)
	clear(st.cands)
	st.raws, st.cands = st.raws[:0], st.cands[:0]
	st.req, st.doc, st.hashed = nil, nil, false
	st.stamp, st.id, st.url, st.secret, st.kid = nil, nil, nil, nil, nil
	st.buf, st.msg, st.dec, st.urlBuf, st.small = st.buf[:0], st.msg[:0], st.dec[:0], st.urlBuf[:0], st.small[:0]
	if cap(st.msg) > 64<<10 {
		st.msg = nil
	}
	if cap(st.dec)+cap(st.urlBuf)+cap(st.buf) > 64<<10 {
		st.dec, st.urlBuf, st.buf = nil, nil, nil
	}
}

// Write collects the message for schemes that need it whole.
func (st *state) Write(p []byte) (int, error) {
	st.msg = append(st.msg, p...)
	return len(p), nil
}

// at reads one value. Absent is no failure; twice is.
func (st *state) at(p place) ([]byte, bool, Check) {
	switch p.kind {
	case "header":
		v, n := st.req.Head.Get(p.name)
		if n > 1 {
			return nil, false, CheckDuplicate
		}
		return v, n == 1, CheckNone
	case "json":
		return jsonBytes(st.json[p.json])
	}
	return st.param(p.kind, p.name)
}

// formSorted is the form's fields sorted by name, each name followed by its value; of a repeated field the sorted
// values, each after its name, and each once where they are to be distinct. It is absent where the body is something else than a form.
func (st *state) formSorted(distinct bool) ([]byte, bool) {
	if st.hashed || len(st.req.Body) == 0 {
		return nil, true
	}
	if !selector.IsForm(st.req) {
		return nil, false
	}
	return sortedPairs(st.req.Body, "", "", distinct)
}

// maxPairs bounds the pairs that are sorted: they are before anybody knows who sent them, and each takes many times the memory of its bytes.
const maxPairs = 10_000

// sortedPairs decodes pairs, sorts them by name and value and joins them.
func sortedPairs(encoded []byte, equals, between string, distinct bool) ([]byte, bool) {
	type pair struct{ name, value string }
	var pairs []pair
	for k, v := range selector.Pairs(encoded) {
		name, ok1 := selector.Unescape(k)
		value, ok2 := selector.Unescape(v)
		if !ok1 || !ok2 || len(pairs) == maxPairs {
			return nil, false
		}
		pairs = append(pairs, pair{string(name), string(value)})
	}
	sort.Slice(pairs, func(i, j int) bool {
		a, b := &pairs[i], &pairs[j]
		return a.name < b.name || a.name == b.name && a.value < b.value
	})
	if distinct {
		pairs = slices.Compact(pairs)
	}
	var out []byte
	for i, p := range pairs {
		if i > 0 {
			out = append(out, between...)
		}
		out = append(out, p.name...)
		out = append(out, equals...)
		out = append(out, p.value...)
	}
	return out, true
}

// urlSorted is the public URL with its query sorted and decoded, then the form's fields sorted, with a dot between
// query and fields where there are both.
func (st *state) urlSorted() ([]byte, bool) {
	base, query, _ := bytes.Cut(st.url, []byte{'?'})
	params, ok := sortedPairs(query, "=", "&", false)
	if !ok {
		return nil, false
	}
	fields, ok := st.formSorted(false)
	if !ok {
		return nil, false
	}
	out := slices.Clone(base)
	if len(params) > 0 || len(fields) > 0 {
		out = append(out, '?')
		out = append(out, params...)
	}
	if len(params) > 0 && len(fields) > 0 {
		out = append(out, '.')
	}
	return append(out, fields...), true
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// parseTime reads a timestamp: (0|[1-9][0-9]{0,15}) in seconds or milliseconds, RFC 3339, or an HTTP date.
func parseTime(b []byte, unit string) (time.Time, bool) {
	if unit == "rfc3339" {
		if len(b) > 64 {
			return time.Time{}, false
		}
		t, err := time.Parse(time.RFC3339, string(b))
		return t, err == nil
	}
	if unit == "http" {
		if len(b) != len(httpDate) {
			return time.Time{}, false
		}
		t, err := time.Parse(httpDate, string(b))
		return t, err == nil
	}
	if len(b) == 0 || len(b) > 16 || b[0] == '0' && len(b) > 1 {
		return time.Time{}, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
		n = n*10 + int64(c-'0')
	}
	if unit == "ms" {
		return time.UnixMilli(n), true
	}
	return time.Unix(n, 0), true
}

// httpDate is the only form in which HTTP dates are written (RFC 9110 §5.6.7).
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// appendTime is the inverse of parseTime.
func appendTime(dst []byte, t time.Time, unit string) []byte {
	switch unit {
	case "rfc3339":
		return t.UTC().AppendFormat(dst, time.RFC3339)
	case "http":
		return t.UTC().AppendFormat(dst, httpDate)
	case "ms":
		return strconv.AppendInt(dst, t.UnixMilli(), 10)
	}
	return strconv.AppendInt(dst, t.Unix(), 10)
}

// age judges a signature's time: tolerance both ways, the bound itself included. A time in whole seconds is compared with our clock's
// whole seconds, as its fraction is not known.
func age(at, now time.Time, tolerance time.Duration) Check {
	if tolerance <= 0 {
		return CheckNone
	}
	d := now.Sub(at)
	if at.Nanosecond() == 0 {
		d = max(-math.MaxInt64/2, min(math.MaxInt64/2, d)) // as far apart as times can be
		d -= time.Duration(now.Nanosecond())
	}
	switch {
	case d > tolerance:
		return CheckStale
	case d < -tolerance:
		return CheckFuture
	}
	return CheckNone
}
