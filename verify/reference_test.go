package verify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
)

// The reference is each common form of signature written out once more, by its definition and as plainly as can be: no template, no shared
// parser, no pool. The engine may accept nothing that it refuses, and has to accept what it accepts.
type reference struct {
	name string
	spec Spec
	// signatures of the header that may count, decoded, each with the time it goes by; ok is false where the header cannot be read.
	read func(value, stampHeader string) (sigs []referenceSig, ok bool)
	// what is signed.
	message func(stamp string, body []byte) string
}

type referenceSig struct {
	mac   []byte
	stamp string // "" if none is signed
}

const referenceSecret = "reference-secret"

func hexSig(text string) ([]byte, bool) {
	b, err := hex.DecodeString(text)
	return b, err == nil && text != ""
}

func base64Sig(text string) ([]byte, bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return b, err == nil && text != "" && !strings.ContainsAny(text, "\r\n")
}

var references = []reference{
	{
		name: "plain", spec: Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Signature", Prefix: "sha256=", Signed: "{body}"},
		read: func(value, _ string) ([]referenceSig, bool) {
			text, found := strings.CutPrefix(value, "sha256=")
			mac, ok := hexSig(text)
			return []referenceSig{{mac: mac}}, found && ok
		},
		message: func(_ string, body []byte) string { return string(body) },
	},
	{
		name: "list", spec: Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "base64", Header: "X-Signature", Format: "list", Signed: "{body}"},
		read: func(value, _ string) (sigs []referenceSig, ok bool) {
			for part := range strings.SplitSeq(value, ",") {
				if mac, good := base64Sig(strings.Trim(part, " \t")); good {
					sigs = append(sigs, referenceSig{mac: mac})
				}
			}
			return sigs, true
		},
		message: func(_ string, body []byte) string { return string(body) },
	},
	{
		name: "fields", spec: fieldsSpec,
		read: func(value, _ string) (sigs []referenceSig, ok bool) {
			stamp, stamps := "", 0
			for pair := range strings.SplitSeq(value, ",") {
				switch key, val, _ := strings.Cut(strings.Trim(pair, " \t"), "="); {
				case !strings.Contains(pair, "="):
				case key == "t":
					stamp, stamps = val, stamps+1
				case key == "v1":
					if mac, good := hexSig(val); good {
						sigs = append(sigs, referenceSig{mac: mac})
					}
				}
			}
			for i := range sigs {
				sigs[i].stamp = stamp
			}
			return sigs, stamps == 1
		},
		message: func(stamp string, body []byte) string { return stamp + "." + string(body) },
	},
	{
		name: "positional", spec: Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Signature", Format: "positional", Timestamp: "field:0", Signed: "{timestamp}.{body}", Tolerance: 5 * time.Minute},
		read: func(value, _ string) (sigs []referenceSig, ok bool) {
			parts := strings.Split(value, ",")
			for _, p := range parts[1:] {
				if mac, good := hexSig(strings.Trim(p, " \t")); good {
					sigs = append(sigs, referenceSig{mac, parts[0]})
				}
			}
			return sigs, true
		},
		message: func(stamp string, body []byte) string { return stamp + "." + string(body) },
	},
	{
		name: "tagged", spec: Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "base64", Header: "X-Signature", Format: "tagged", Fields: []string{"v1"}, Timestamp: "header:X-Timestamp", Signed: "{timestamp}.{body}", Tolerance: 5 * time.Minute},
		read: func(value, stamp string) (sigs []referenceSig, ok bool) {
			for entry := range strings.SplitSeq(value, " ") {
				if text, tagged := strings.CutPrefix(entry, "v1,"); tagged {
					if mac, good := base64Sig(text); good {
						sigs = append(sigs, referenceSig{mac, stamp})
					}
				}
			}
			return sigs, true
		},
		message: func(stamp string, body []byte) string { return stamp + "." + string(body) },
	},
}

func (r *reference) mac(stamp string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(referenceSecret))
	h.Write([]byte(r.message(stamp, body)))
	return h.Sum(nil)
}

// accepts judges by the definition: a readable time within five minutes, and one of the signatures.
func (r *reference) accepts(value, stampHeader string, body []byte, now time.Time) bool {
	sigs, ok := r.read(value, stampHeader)
	if !ok || len(sigs) == 0 || len(sigs) > MaxCandidates || len(value) > MaxHeader {
		return false
	}
	for _, s := range sigs {
		if !hmac.Equal(s.mac, r.mac(s.stamp, body)) {
			continue
		}
		if r.spec.Timestamp == "" {
			return true
		}
		sec, err := strconv.ParseUint(s.stamp, 10, 64)
		if err != nil || strconv.FormatUint(sec, 10) != s.stamp || len(s.stamp) > 16 {
			return false
		}
		if d := now.Unix() - int64(sec); d >= -300 && d <= 300 {
			return true
		}
	}
	return false
}

// expand writes what stands for a part of a genuine header: $ the hexadecimal signature, % the one in base64, @ the time.
func (r *reference) expand(text, stamp string, body []byte) string {
	mac := r.mac(stamp, body)
	return strings.NewReplacer("$", hex.EncodeToString(mac), "%", base64.StdEncoding.EncodeToString(mac), "@", stamp).Replace(text)
}

func FuzzEngineAgainstReference(f *testing.F) {
	var engines []*Verifier
	for i := range references {
		engines = append(engines, mustCompile(f, references[i].spec, referenceSecret))
	}
	for i, text := range []string{"sha256=$", "%, %", "t=@,v1=$", "@,$", "v1,% v1,AAAA"} {
		f.Add(uint8(i), text, "@", int64(1760000000), "{}", int16(0))
		f.Add(uint8(i), text+","+text, "@", int64(1760000000), "{}", int16(301))
		f.Add(uint8(i), strings.ToUpper(text)+" ,"+text, "0@", int64(17), "", int16(-300))
	}
	f.Fuzz(func(t *testing.T, which uint8, text, stampText string, stamp int64, body string, off int16) {
		r, v := &references[int(which)%len(references)], engines[int(which)%len(references)]
		written := strconv.FormatInt(stamp, 10)
		value := strings.Trim(r.expand(text, written, []byte(body)), " \t")
		stampHeader := strings.Trim(r.expand(stampText, written, []byte(body)), " \t")
		if strings.ContainsAny(value+stampHeader, "\r\n\x00") || strings.Count(value, ",")+strings.Count(value, " ") >= MaxCandidates {
			return // the wire check refuses the first, and how many parts are too many is a bound of ours
		}
		req := &event.Request{Method: "POST", Target: []byte("/"), Body: []byte(body)}
		req.Head = req.Head.AppendString("X-Signature", value)
		if strings.HasPrefix(r.spec.Timestamp, "header:") {
			req.Head = req.Head.AppendString("X-Timestamp", stampHeader)
		}
		now := time.Unix(stamp+int64(off), 0)
		before := bytes.Clone(req.Head)
		got, want := v.Verify(req, now), r.accepts(value, stampHeader, []byte(body), now)
		if got.OK != want {
			t.Fatalf("%s: the engine says %v (%s), the definition %v:\n%q %q %q at %d", r.name, got.OK, got.Check, want, value, stampHeader, body, now.Unix())
		}
		if !bytes.Equal(before, req.Head) {
			t.Fatal("the request was changed")
		}
	})
}
