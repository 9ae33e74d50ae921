// Package provider knows senders as data: how each signs, where its events carry their identity, which answers it wants
// and how its challenge works. A sender is a row of providers.yaml and its vectors; there is code only for challenges.
package provider

import (
	"bytes"
	_ "embed"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/packed"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// Confidence says how well a row is known.
type Confidence string

const (
	Official    Confidence = "official"    // from the sender's documentation or SDK
	Community   Confidence = "community"   // from libraries and reports of others
	Unconfirmed Confidence = "unconfirmed" // plausible, not confirmed
	Generic     Confidence = "generic"     // not a sender, but a common way to sign
)

// Answer is a response that a sender wants. Status 0 means that the row has no wish.
type Answer struct {
	Status      int    `yaml:"status"`
	ContentType string `yaml:"type"`
	Body        string `yaml:"body"`
}

// Responses are the answers a sender wants in place of the usual ones. Duplicate and Stale are Success where they are
// not given.
type Responses struct {
	Success   Answer `yaml:"success"`
	Duplicate Answer `yaml:"duplicate"`
	Stale     Answer `yaml:"stale"`
	Rejected  Answer `yaml:"rejected"`
}

// Preset is one row. Its Specs are copies: the caller may change them.
type Preset struct {
	ID         string                `yaml:"id"`
	Confidence Confidence            `yaml:"confidence"`
	Secret     string                `yaml:"secret"` // where the secret is found; "" if nothing special is known
	Verify     verify.Spec           `yaml:"verify"`
	Identity   selector.IdentitySpec `yaml:"identity"`
	// How long the sender waits for an answer; 0 = not known.
	Deadline time.Duration `yaml:"deadline"`
	// How long the sender goes on retrying one event; 0 = not known, or it does not.
	RetryWindow time.Duration `yaml:"retry_window"`
	Responses   Responses     `yaml:"responses"`
	// The sender deletes the endpoint or gives up for good on a 410.
	Forbid410 bool `yaml:"forbid_410"`
	// A header of its events that the answer must repeat; "" = none.
	Echo string `yaml:"echo"`
	// Which service gives the sender's keys one by one, to those who have an account there (handshake.client_id and client_secret): plaid, ebay.
	KeyService string `yaml:"key_service"`
	// Which challenge the sender makes; "" = none. See NewHandshake.
	Handshake string `yaml:"handshake"`
	// The verified MAC must not serve as a second replay key: genuine events may repeat it.
	NoReplayKey bool `yaml:"no_replay_key"`
	// The verified MAC is a second replay key together with the event's type: genuine events of several types may have one body.
	TypedReplayKey bool `yaml:"typed_replay_key"`
	// What ordering.compare should be, by what versions of this sender look like; "" = integer.
	Compare string `yaml:"compare"`
	// What dedup.mode should be: "observe" where the id repeats for different events; "" = enforce.
	Dedup string `yaml:"dedup"`
	Note  string `yaml:"note"`
}

// rows is providers.yaml, packed.
//
//go:generate go run ../packed/internal/pack providers.yaml
//go:generate go run ./internal/page
//go:generate go run ./internal/negatives
//go:embed providers.yaml.gz
var rows []byte

// table is the parsed rows, sorted by id.
var table = sync.OnceValue(func() []Preset {
	var list []Preset
	text, err := packed.Unpack(rows)
	if err == nil {
		dec := yaml.NewDecoder(bytes.NewReader(text))
		dec.KnownFields(true)
		err = dec.Decode(&list)
	}
	if err != nil {
		panic("provider: providers.yaml: " + err.Error()) // embedded and tested: cannot happen in a built binary
	}
	for i := range list {
		list[i].Verify.Mode = "enforce"
		r := &list[i].Responses
		if r.Duplicate.Status == 0 {
			r.Duplicate = r.Success
		}
		if r.Stale.Status == 0 {
			r.Stale = r.Success
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID }) // a generic sort of so large a struct weighs 20 KiB
	return list
})

// Get gives the preset called name (exactly).
func Get(name string) (Preset, bool) {
	list := table()
	i, ok := slices.BinarySearchFunc(list, name, func(p Preset, s string) int { return strings.Compare(p.ID, s) })
	if !ok {
		return Preset{}, false
	}
	return list[i].clone(), true
}

// All gives every preset, sorted by id.
func All() []Preset {
	out := make([]Preset, 0, len(table()))
	for _, p := range table() {
		out = append(out, p.clone())
	}
	return out
}

func (p Preset) clone() Preset {
	p.Verify, p.Identity = p.Verify.Clone(), p.Identity.Clone()
	return p
}

// Binds is what a good signature of this sender authenticates, by its row: body, crc32, origin or none.
func (p Preset) Binds() verify.Binding {
	return p.Verify.Binding()
}

// SignsID says whether the signature covers the event id, so that nobody can give a captured request another.
func (p Preset) SignsID() bool {
	id, err := selector.ParseList(p.Identity.ID...)
	return err == nil && p.Verify.SignsID(id)
}

// Tolerance is how old a signature may be; 0 = any age.
func (p Preset) Tolerance() time.Duration {
	if p.Verify.Scheme == "jwt" {
		return p.Verify.MaxAge
	}
	return p.Verify.Tolerance
}

// NeedsReplayKey says whether the verified MAC serves as a second replay key for this source: v is its verifier, id its
// event id.
func (p Preset) NeedsReplayKey(v *verify.Verifier, id selector.List) bool {
	return !p.NoReplayKey && v.NeedsReplayKey(id)
}

// Suggest gives the id closest to name, "" if none is close (more than a third of it would have to change).
func Suggest(name string) string {
	best, least := "", len(name)/3+1
	for _, p := range table() {
		if d := distance(strings.ToLower(name), p.ID); d < least || d == least && best == "" && d <= len(name)/3 {
			best, least = p.ID, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// ShortDuration writes a duration without the zero parts at its end; nothing for none.
func ShortDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
