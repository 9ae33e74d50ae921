// Package dedup answers one question: is this event new? In front of the journal stand an LRU of fates that can no longer change and
// the claims of requests that are under way. A miss in the LRU never means "new": only the journal knows. See DESIGN.md.
package dedup

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

const shards = 64

// Index is the cache and the claims. It is safe for concurrent use.
type Index struct {
	log    Log
	window atomic.Int64 // time.Duration
	count  func(tier string, hit bool)
	shard  [shards]shard
	spare  sync.Pool // of *Claim
}

// Log is the part of a journal that Index reads.
type Log interface {
	Lookup(ctx context.Context, keys []event.Key) ([]event.Fate, error)
}

type shard struct {
	mu     sync.Mutex
	known  *simplelru.LRU[event.Key, known] // under mu like the claims
	claims map[event.Key]*Claim
}

// known is a fate that is durable and final, with its own expiry: the cache never outlives the dedup window.
type known struct {
	id      event.ID
	expires int64 // Unix seconds
	digest  uint64
	state   event.State
	reason  event.Reason
}

// New makes an index. window is the dedup retention; observe is told of every look-up (tier "lru" or "log") and may be nil.
func New(cfg Config, log Log, window time.Duration, observe func(tier string, hit bool)) (*Index, error) {
	x := &Index{log: log, count: observe}
	x.window.Store(int64(window))
	if x.count == nil {
		x.count = func(string, bool) {}
	}
	for i := range x.shard {
		c, err := simplelru.NewLRU[event.Key, known](perShard(cfg), nil)
		if err != nil {
			return nil, fmt.Errorf("dedup cache: %w", err)
		}
		x.shard[i] = shard{known: c, claims: map[event.Key]*Claim{}}
	}
	return x, nil
}

func perShard(cfg Config) int { return max(1, cfg.Cache/shards) }

// Reconfigure changes the size of the cache and the window, on reload. What is in the cache goes by a shorter window at once.
func (x *Index) Reconfigure(cfg Config, window time.Duration) {
	shorter := time.Duration(x.window.Swap(int64(window))) > window
	for i := range x.shard {
		s := &x.shard[i]
		s.mu.Lock()
		if s.known.Resize(perShard(cfg)); shorter {
			s.known.Purge() // the journal knows what these were, and judges by the new window
		}
		s.mu.Unlock()
	}
}

func (x *Index) at(k event.Key) *shard { return &x.shard[k[0]%shards] }

// Claim is one request's hold on its keys while it is under way: no other request with any of them gets past Claim meanwhile.
type Claim struct {
	index *Index
	keys  []event.Key
	mu    sync.Mutex
	done  chan struct{} // made by the first who waits
	value any
}

// Claim takes all keys for this request. If another request that is under way holds one of them, it gives that one to wait for
// instead, and nothing is held.
func (x *Index) Claim(keys []event.Key) (mine, other *Claim) {
	c, _ := x.spare.Get().(*Claim)
	if c == nil {
		c = &Claim{index: x}
	}
	c.keys = keys
	for i, k := range keys {
		s := x.at(k)
		s.mu.Lock()
		if o := s.claims[k]; o != nil && o != c {
			o.awaited()
			s.mu.Unlock()
			c.keys = keys[:i]
			c.Release(nil) // somebody may wait for what was held so far
			return nil, o
		}
		s.claims[k] = c
		s.mu.Unlock()
	}
	return c, nil
}

func (c *Claim) drop(keys []event.Key) {
	for _, k := range keys {
		s := c.index.at(k)
		s.mu.Lock()
		if s.claims[k] == c {
			delete(s.claims, k)
		}
		s.mu.Unlock()
	}
}

// Release ends the claim; those who wait get value. Call it once, after the fate is in the journal or nothing is left of it; the claim is not used
// any more then.
func (c *Claim) Release(value any) {
	c.value = value
	c.drop(c.keys) // from here on nobody new can find the claim, and who has found it has made done
	if c.done != nil {
		close(c.done)
		return
	}
	c.keys, c.value = nil, nil
	c.index.spare.Put(c)
}

// awaited makes the channel that Release closes. The caller holds the lock of a shard that lists the claim.
func (c *Claim) awaited() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
	}
}

// Wait (on a claim that Claim gave as the other one) waits for another request's Release and gives its value; false if d passed or ctx ended first.
func (c *Claim) Wait(ctx context.Context, d time.Duration) (value any, ok bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.done:
		return c.value, true
	case <-t.C:
	case <-ctx.Done():
	}
	return nil, false
}

// Found is a known event.
type Found struct {
	event.Fate
	Key     int  // which of the keys it is known under
	Durable bool // from the cache: final and fsynced. False: ask the journal to sync before answering for it
	Other   bool // its body differs from the one in hand
}

// Cached says whether the cache knows one of the keys; false means nothing. body is the SHA-256 of the body in hand. The caller holds the keys.
func (x *Index) Cached(keys []event.Key, body *[32]byte, now time.Time) (Found, bool) {
	for i, k := range keys {
		s := x.at(k)
		s.mu.Lock()
		e, ok := s.known.Get(k)
		if ok && now.Unix() >= e.expires {
			s.known.Remove(k)
			ok = false
		}
		s.mu.Unlock()
		x.count("lru", ok)
		if ok {
			return Found{Fate: event.Fate{ID: e.id, State: e.state, Reason: e.reason}, Key: i, Durable: true, Other: e.digest != digest(body)}, true
		}
	}
	return Found{}, false
}

// Lookup asks the journal whether one of the keys is known, and which event it is; Cached comes first. The caller holds the keys. Errors are the journal's.
func (x *Index) Lookup(ctx context.Context, keys []event.Key, body *[32]byte) (Found, bool, error) {
	fates, err := x.log.Lookup(ctx, keys)
	if err != nil {
		return Found{}, false, err
	}
	for i, f := range fates {
		x.count("log", f.Known())
		if f.Known() {
			return Found{Fate: f, Key: i, Other: f.BodySHA256 != *body}, true, nil
		}
	}
	return Found{}, false, nil
}

// Met makes a Found of an event that the journal named when it refused a claim: the look-up and the claim are one then.
func (x *Index) Met(f *event.Fate, key int, body *[32]byte) Found {
	x.count("log", true)
	return Found{Fate: *f, Key: key, Other: f.BodySHA256 != *body}
}

// Missed counts a claim that the journal granted without a look-up before it.
func (x *Index) Missed() { x.count("log", false) }

// Remember fills the cache with a fate that is durable and final. Call it only after the commit.
func (x *Index) Remember(keys []event.Key, f *event.Fate) {
	e := known{id: f.ID, digest: digest(&f.BodySHA256), state: f.State, reason: f.Reason}
	for _, k := range keys {
		s := x.at(k)
		s.mu.Lock()
		e.expires = f.ReceivedAt.Add(time.Duration(x.window.Load())).Unix() // read with the lock held: see Reconfigure
		s.known.Add(k, e)
		s.mu.Unlock()
	}
}

func digest(sum *[32]byte) uint64 { return binary.LittleEndian.Uint64(sum[:8]) }

var _ Log = journal.Journal(nil)

// Awaited says whether another request waits for this claim's Release.
func (c *Claim) Awaited() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done != nil
}
