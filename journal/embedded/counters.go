package embedded

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// counters are the numbers of records per source, state and reason, and what a checkpoint needs of a source's newest
// events. They are a pure function of the log.
type counters map[string]*sourceCount

type sourceCount struct {
	n             []stateCount
	last          event.Seq // newest event
	lastDelivered event.Seq // the event that was delivered (or replayed) last
}

type stateReason struct {
	state  event.State
	reason event.Reason
}

// stateCount is a number of records, not 0. A source has few of them at a time.
type stateCount struct {
	stateReason
	n int64
}

func (c counters) of(source string) *sourceCount {
	s := c[source]
	if s == nil {
		s = &sourceCount{}
		c[strings.Clone(source)] = s // it may be cut from a longer text
	}
	return s
}

// move counts one event from one state to another; a zero state is none.
func (s *sourceCount) move(from, to stateReason, n int64) {
	if from == to {
		return
	}
	if from.state != 0 {
		s.add(from, -n)
	}
	if to.state != 0 {
		s.add(to, n)
	}
}

func (s *sourceCount) add(k stateReason, n int64) {
	for i := range s.n {
		if c := &s.n[i]; c.stateReason == k {
			if c.n += n; c.n == 0 {
				s.n = slices.Delete(s.n, i, i+1)
			}
			return
		}
	}
	if n != 0 {
		s.n = append(s.n, stateCount{k, n})
	}
}

// counted is what an event counts as; zero where nothing or only its marker is left. It goes by what is known of the event and not by what a frame says of
// it: in a log that was salvaged the frame before may be lost.
func (it *item) counted() stateReason {
	if it == nil || it.removed || it.marker {
		return stateReason{}
	}
	return stateReason{it.state, it.reason}
}

// frame counts an event that was counted as from before, and may have been delivered now.
func (s *sourceCount) frame(from stateReason, it *item, delivered bool) {
	s.move(from, it.counted(), 1)
	seq := it.id.Seq()
	s.last = max(s.last, seq)
	if delivered {
		s.lastDelivered = seq
	}
}

// deliveredNow says whether an event that was old has been delivered with the change to it; one whose forced replay has failed falls back to when it was.
func (it *item) deliveredNow(old *item) bool {
	if !it.delivered() || old.counted().state == it.state {
		return false
	}
	if old == nil || old.marker {
		return true
	}
	if v, ok := viewBody(old.body); !ok || len(v.replayID) == 0 {
		return true
	}
	was, err := decodeRecord(old.body)
	if err != nil || was.DeliveredAt.IsZero() {
		return true
	}
	now, err := decodeRecord(it.body)
	return err != nil || !now.DeliveredAt.Equal(was.DeliveredAt)
}

func (it *item) delivered() bool {
	return !it.marker && (it.state == event.Delivered || it.state == event.Replayed)
}

// forget counts n records of one kind out.
func (c counters) forget(source string, k stateReason, n int64) {
	c.of(source).move(k, stateReason{}, n)
}

func (c counters) list() []journal.Count {
	var out []journal.Count
	for source, s := range c {
		for _, x := range s.n {
			out = append(out, journal.Count{Source: source, State: x.state, Reason: x.reason, N: x.n})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := &out[i], &out[j]
		return cmp.Or(strings.Compare(a.Source, b.Source), int(a.State)-int(b.State), int(a.Reason)-int(b.Reason)) < 0
	})
	return out
}

// checkpointState is what the index keeps under n: how far the log has been applied, and what is a function of the log up
// to there.
type checkpointState struct {
	at      position
	nextSeq event.Seq
	horizon int64
	counts  counters
	covers  int64 // see Engine.covers
}

// indexVersion is that of the index's entries: one of another version is rebuilt. 3: records are in leaves, or on their own.
const indexVersion = 3

func (s *checkpointState) encode(b []byte) []byte {
	b = append(b, indexVersion)
	for _, v := range [...]uint64{s.at.lsn, s.at.segment, uint64(s.at.offset), s.at.generation, uint64(s.nextSeq), uint64(s.horizon)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(s.counts)))
	for source, c := range s.counts {
		b = appendString(b, source)
		b = binary.AppendUvarint(b, uint64(c.last))
		b = binary.AppendUvarint(b, uint64(c.lastDelivered))
		b = binary.AppendUvarint(b, uint64(len(c.n)))
		for _, x := range c.n {
			b = append(b, byte(x.state), byte(x.reason))
			b = binary.AppendVarint(b, x.n)
		}
	}
	return binary.AppendVarint(b, s.covers)
}

func decodeCheckpoint(b []byte) (s checkpointState, err error) {
	d := newDecoder(b)
	if d.u8() != indexVersion {
		return s, fmt.Errorf("%w: it was written by another version", errCodec)
	}
	var v [6]uint64
	for i := range v {
		if x := d.take(8); x != nil {
			v[i] = binary.LittleEndian.Uint64(x)
		}
	}
	s.at = position{lsn: v[0], segment: v[1], offset: int64(v[2]), generation: v[3]}
	s.nextSeq, s.horizon = event.Seq(v[4]), int64(v[5])
	s.counts = counters{}
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		c := s.counts.of(d.string())
		c.last, c.lastDelivered = event.Seq(d.uvarint()), event.Seq(d.uvarint())
		for m := d.uvarint(); m > 0 && !d.bad; m-- {
			k := stateReason{event.State(d.u8()), event.Reason(d.u8())}
			c.add(k, d.varint())
		}
	}
	s.covers = d.varint()
	return s, d.done()
}
