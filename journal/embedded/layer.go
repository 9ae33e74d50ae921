package embedded

import "github.com/hooktender/hooktender/event"

// A layer holds changes that are in the log and not yet in the index: the newest value of everything touched. The engine
// has two at most: the active one, which the writer publishes to, and a frozen one, which the applier is writing out. The
// writer has a third of its own, the stage, for the group it is working on.
type layer struct {
	items     map[event.Seq]*item
	keys      map[event.Key]event.Seq
	resources map[event.ResourceKey]resource
	metas     map[string]meta
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

func newLayer() *layer {
	return &layer{
		items:     map[event.Seq]*item{},
		keys:      map[event.Key]event.Seq{},
		resources: map[event.ResourceKey]resource{},
		metas:     map[string]meta{},
	}
}

func (l *layer) clear() {
	clear(l.items)
	clear(l.keys)
	clear(l.resources)
	clear(l.metas)
	l.weight = 0
}

func (l *layer) empty() bool {
	return len(l.items) == 0 && len(l.resources) == 0 && len(l.metas) == 0
}

// put stages an item made from old, and what its first frame claims.
func (l *layer) put(it, old *item, claim bool) {
	seq := it.id.Seq()
	if staged := l.items[seq]; staged != nil {
		it.prev = staged.prev
	} else {
		it.prev = old
	}
	l.items[seq] = it
	if claim {
		for _, k := range it.keys {
			l.keys[k] = seq
		}
	}
}

// merge publishes a stage: from is newer. The index will hold, before l is flushed, what it holds for the item that l has
// already, or else the published item that the new one was made from.
func (l *layer) merge(from *layer) {
	for seq, it := range from.items {
		if old := l.items[seq]; old != nil {
			it.was = old.was
			l.weight -= old.weight()
		} else if it.prev != nil {
			it.was = it.prev.asIndexed()
		}
		it.prev = nil
		l.items[seq] = it
		l.weight += it.weight()
	}
	for k, seq := range from.keys {
		l.keys[k] = seq
		l.weight += 64
	}
	for k, r := range from.resources {
		l.resources[k] = r
		l.weight += 200 + len(k.Source) + len(k.Resource) + len(r.state.Version) + len(r.state.EventID)
	}
	for k, m := range from.metas {
		l.metas[k] = m
		l.weight += 100 + len(k) + len(m.value)
	}
	l.last = from.last
}
