package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

const (
	answerPrefix = "admin/answer/"
	answerAge    = 24 * time.Hour
	answerCount  = 10_000   // answers kept
	answerBytes  = 48 << 10 // of a longer body only that there was one is kept: the call is made again, under the same id
	maxKey       = 255      // bytes of an Idempotency-Key
)

// answers remembers what was answered to a POST with an Idempotency-Key, so that the same call made again changes nothing and gets the
// same answer, also after a restart. Only successes are kept: a refusal had no effect and is judged anew.
type answers struct {
	journal journal.Journal

	mu     sync.Mutex
	loaded bool
	known  map[string]time.Time // key in the journal → when it was answered
	busy   map[string]bool      // calls under way
}

// answered is one remembered answer; without a status it is the id of the replay that a call asked for, written before the replay begins, so
// that the same call made again after a kill finds the replay. Without a body it was too long to be kept.
type answered struct {
	At       time.Time `json:"at"`
	As       string    `json:"as,omitempty"`
	BodyHash string    `json:"body_hash"`
	Status   int       `json:"status"`
	Location string    `json:"location,omitempty"`
	Body     []byte    `json:"body"`
}

// once calls the route's handler, unless the same call was answered before. The key belongs to the actor and to the route with its
// arguments. Same key, other body: 422; same key at the same time: 409.
func (a *answers) once(t *route, c *call) error {
	values := c.r.Header["Idempotency-Key"]
	if len(values) == 0 {
		return t.handle(c)
	}
	if len(values) > 1 || values[0] == "" || len(values[0]) > maxKey {
		return fail(http.StatusBadRequest, "Idempotency-Key must be one value of 1 to 255 bytes")
	}
	key := answerPrefix + digest(event.MakeKey('i', c.who.name, c.r.URL.RequestURI(), values[0]))
	hash := sha256.Sum256(c.body)
	ctx := c.r.Context()
	sum := hex.EncodeToString(hash[:])
	old, p, err := a.begin(ctx, key, sum)
	if err != nil || p != nil {
		if p != nil {
			return p
		}
		return err
	}
	if old.Body != nil {
		c.audit.outcome = "repeated"
		c.w.Header().Set("Idempotency-Replayed", "true")
		if old.Location != "" {
			c.w.Header().Set("Location", old.Location)
		}
		send(c.w, old.Status, "application/json", old.Body)
		return nil
	}
	defer a.end(key)
	v := answered{As: old.As, BodyHash: sum}
	c.as = func() (string, error) { return a.as(ctx, key, &v) }
	return a.handle(ctx, t, c, key, &v)
}

// handle lets the handler answer into memory, keeps the answer, and only then sends it: a caller that has seen the answer can rely on its
// being remembered.
func (a *answers) handle(ctx context.Context, t *route, c *call, key string, v *answered) error {
	outer := c.w
	held := &buffered{header: outer.Header()}
	c.w = held
	err := t.handle(c)
	c.w = outer
	if err != nil {
		return err
	}
	if held.status >= 200 && held.status < 300 {
		v.At, v.Status, v.Location = now(), held.status, held.header.Get("Location")
		if len(held.body) <= answerBytes {
			v.Body = held.body
		}
		if err := a.keep(context.WithoutCancel(ctx), key, v, journal.Synced); err != nil {
			return err
		}
	}
	send(outer, held.status, held.header.Get("Content-Type"), held.body)
	return nil
}

// as is the id of the replay that is asked for under a key: known from an earlier call, or made and written.
func (a *answers) as(ctx context.Context, key string, v *answered) (string, error) {
	if v.As != "" {
		return v.As, nil
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	v.At, v.As = now(), "rp_"+hex.EncodeToString(b[:])
	return v.As, a.keep(ctx, key, v, journal.Written)
}

func digest(k event.Key) string { return hex.EncodeToString(k[:]) }

// begin claims a key, or gives what was answered under it.
func (a *answers) begin(ctx context.Context, key, hash string) (v answered, p *problem, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(ctx); err != nil {
		return v, nil, err
	}
	if a.busy[key] {
		return v, fail(http.StatusConflict, "a call with this Idempotency-Key is under way").retry(time.Second), nil
	}
	if at, ok := a.known[key]; ok && now().Sub(at) < answerAge {
		raw, err := a.journal.MetaGet(ctx, key)
		if err != nil {
			return v, nil, err
		}
		switch known := json.Unmarshal(raw, &v) == nil; {
		case known && v.Status != 0 && v.BodyHash != hash:
			return v, fail(http.StatusUnprocessableEntity, "this Idempotency-Key was used with another body"), nil
		case known && v.Body != nil:
			return v, nil, nil
		case !known || v.BodyHash != hash: // a refusal, or a kill, came before an answer to another body
			v = answered{}
		}
	}
	a.busy[key] = true
	return v, nil, nil
}

func (a *answers) end(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.busy, key)
}

// load reads at the first call what an earlier process remembered. The caller holds mu.
func (a *answers) load(ctx context.Context) error {
	if a.loaded {
		return nil
	}
	entries, err := a.journal.MetaList(ctx, answerPrefix)
	if err != nil {
		return err
	}
	a.known, a.busy = map[string]time.Time{}, map[string]bool{}
	for _, e := range entries {
		var v answered
		_ = json.Unmarshal(e.Value, &v) // what cannot be read counts as old, and goes
		a.known[e.Key] = v.At
	}
	a.loaded = true
	return nil
}

// keep remembers an answer, and forgets those that are too old or too many.
func (a *answers) keep(ctx context.Context, key string, v *answered, how journal.Durability) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := a.journal.MetaPut(ctx, key, raw, how); err != nil {
		return err
	}
	a.mu.Lock()
	a.known[key] = v.At
	drop := a.surplus(v.At)
	a.mu.Unlock()
	for _, k := range drop {
		if err := a.journal.MetaPut(ctx, k, nil, journal.Written); err != nil {
			return err
		}
	}
	return nil
}

// surplus takes out what is to be forgotten. The caller holds mu.
func (a *answers) surplus(at time.Time) []string {
	var drop []string
	for k, t := range a.known {
		if at.Sub(t) >= answerAge {
			drop = append(drop, k)
		}
	}
	for _, k := range drop {
		delete(a.known, k)
	}
	if len(a.known) <= answerCount {
		return drop
	}
	keys := make([]string, 0, len(a.known))
	for k := range a.known {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y string) int { return cmp.Compare(a.known[x].UnixNano(), a.known[y].UnixNano()) })
	for _, k := range keys[:len(keys)-answerCount*9/10] {
		delete(a.known, k)
		drop = append(drop, k)
	}
	return drop
}

// buffered is an answer in memory.
type buffered struct {
	header http.Header
	status int
	body   []byte
}

func (b *buffered) Header() http.Header { return b.header }
func (b *buffered) WriteHeader(status int) {
	if b.status == 0 {
		b.status = status
	}
}
func (b *buffered) Write(p []byte) (int, error) {
	b.WriteHeader(http.StatusOK)
	b.body = append(b.body, p...)
	return len(p), nil
}
