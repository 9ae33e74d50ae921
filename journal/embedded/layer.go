package embedded

import (
	"slices"
	"sync/atomic"

	"github.com/hooktender/hooktender/event"
)

// A layer holds changes that are in the log and not yet in the index: the newest value of everything touched. The engine
// has two at most: the active one, which the writer publishes to, and a frozen one, which the applier is writing out.
type layer struct {
	filling   uint64 // another each time that the layer is filled anew; never 0
	items     map[event.Seq]*item
	keys      map[event.Key]event.Seq
	resources map[event.ResourceKey]resource
	metas     map[string]meta
	counts    map[event.Seq]noteCount // to be added to what the index has; of no event that is in items
	counted   map[uint64]bool         // the leaves of those
	weight    int
	last      position // of the last frame in it
}

// resource is a resource's state and the segment of the frame that set it.
type resource struct {
	state   event.ResourceState
	segment uint64
}

// meta is a meta value (nil = deleted) and the segment of the frame that set it.
type meta struct {
	value   []byte
	segment uint64
}

// position is a place in the log: the number of the last frame that counts, and where the next one begins.
type position struct {
	lsn        uint64
	segment    uint64
	generation uint64 // of the segment
	offset     int64
}

// fillings are the layers filled so far.
var fillings atomic.Uint64

func newLayer() *layer {
	return &layer{
		filling:   fillings.Add(1),
		items:     map[event.Seq]*item{},
		keys:      map[event.Key]event.Seq{},
		resources: map[event.ResourceKey]resource{},
		metas:     map[string]meta{},
		counts:    map[event.Seq]noteCount{},
		counted:   map[uint64]bool{},
	}
}

func (l *layer) clear() {
	clear(l.items)
	clear(l.keys)
	clear(l.resources)
	clear(l.metas)
	clear(l.counts)
	clear(l.counted)
	l.weight, l.filling = 0, fillings.Add(1)
}

func (l *layer) empty() bool { return len(l.counts) == 0 && l.unchanged() }

// unchanged says that there is nothing but counts, if that.
func (l *layer) unchanged() bool {
	return len(l.items) == 0 && len(l.resources) == 0 && len(l.metas) == 0
}

// A stage holds what the writer's present group changes. Groups are small: what is staged is looked for from end to end, and there is a map only where many
// frames are staged at once, as in a replay.
type stage struct {
	seqs      []event.Seq
	items     []*item // the newest of each of seqs
	bases     []*item // the published item that it was made from; nil = none
	at        map[event.Seq]int
	claims    []claim
	claimed   map[event.Key]event.Seq
	resources map[event.ResourceKey]resource
	metas     map[string]meta
	counts    map[event.Seq]noteCount // as in a layer
	last      position                // of the last frame in it
}

// claim is a key and the event that takes it.
type claim struct {
	key event.Key
	seq event.Seq
}

// smallStage is up to how many entries a stage does without maps.
const smallStage = 64

func newStage() *stage {
	return &stage{at: map[event.Seq]int{}, claimed: map[event.Key]event.Seq{}, resources: map[event.ResourceKey]resource{}, metas: map[string]meta{}, counts: map[event.Seq]noteCount{}}
}

func (s *stage) clear() {
	clear(s.items)
	clear(s.bases)
	s.seqs, s.items, s.bases, s.claims = s.seqs[:0], s.items[:0], s.bases[:0], s.claims[:0]
	clear(s.at)
	clear(s.claimed)
	clear(s.resources)
	clear(s.metas)
	clear(s.counts)
}

// item is the staged item of an event; nil if there is none.
func (s *stage) item(seq event.Seq) *item {
	i := -1
	if len(s.seqs) <= smallStage {
		i = slices.Index(s.seqs, seq)
	} else if at, ok := s.at[seq]; ok {
		i = at
	}
	if i < 0 {
		return nil
	}
	return s.items[i]
}

// owner is the event that takes a key; 0 if none does.
func (s *stage) owner(k event.Key) event.Seq {
	if len(s.claims) > smallStage {
		return s.claimed[k]
	}
	for i := len(s.claims) - 1; i >= 0; i-- { // a key may be taken twice: the last one counts
		if s.claims[i].key == k {
			return s.claims[i].seq
		}
	}
	return 0
}

// put stages an item made from old, the event's newest.
func (s *stage) put(it, old *item) {
	if old != nil && old.staged > 0 {
		it.staged = old.staged
		s.items[it.staged-1] = it
	} else {
		s.add(it, old)
	}
	if old != nil {
		old.staged = superseded
	}
}

func (s *stage) add(it, base *item) {
	s.seqs, s.items, s.bases = append(s.seqs, it.id.Seq()), append(s.items, it), append(s.bases, base)
	delete(s.counts, it.id.Seq())
	n := len(s.seqs)
	it.staged = int32(n)
	switch {
	case n == smallStage+1:
		for i, seq := range s.seqs {
			s.at[seq] = i
		}
	case n > smallStage:
		s.at[it.id.Seq()] = n - 1
	}
}

func (s *stage) claim(k event.Key, seq event.Seq) {
	s.claims = append(s.claims, claim{k, seq})
	switch n := len(s.claims); {
	case n == smallStage+1:
		for _, c := range s.claims {
			s.claimed[c.key] = c.seq
		}
	case n > smallStage:
		s.claimed[k] = seq
	}
}

// countWeight is what a count weighs, and leafWeight what all those of a leaf weigh besides: the flush writes that whole for them, and space is looked for by the weight.
const (
	countWeight = 64
	leafWeight  = 704
)

// merge publishes a stage. The index will hold, before l is flushed, what it holds for the item that l has already, or else the published item that
// the new one was made from.
func (l *layer) merge(s *stage) {
	for i, it := range s.items {
		if base := s.bases[i]; base != nil && base.home == l.filling {
			it.was = base.was
			l.weight -= base.weight()
		} else if base != nil {
			it.was = base.asIndexed()
		}
		it.home, it.staged = l.filling, 0
		l.items[s.seqs[i]] = it
		l.weight += it.weight()
		delete(l.counts, s.seqs[i])
	}
	counts, counted := len(l.counts), len(l.counted)
	for seq, n := range s.counts {
		l.counts[seq] = l.counts[seq].plus(n)
		l.counted[leafOf(seq)] = true
	}
	l.weight += (len(l.counts)-counts)*countWeight + (len(l.counted)-counted)*leafWeight
	for _, c := range s.claims {
		l.keys[c.key] = c.seq
		l.weight += 64
	}
	for k, r := range s.resources {
		l.resources[k] = r
		l.weight += 200 + len(k.Source) + len(k.Resource) + len(r.state.Version) + len(r.state.EventID)
	}
	for k, m := range s.metas {
		l.metas[k] = m
		l.weight += 100 + len(k) + len(m.value)
	}
	l.last = s.last
}
