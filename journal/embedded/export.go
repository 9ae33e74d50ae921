package embedded

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sort"

	"github.com/hooktender/hooktender/event"
)

// Exported is one event as the log has it.
type Exported struct {
	Record   event.Record
	Attempts []event.Attempt
	Payload  *event.Payload // nil: there is none, or Err
	Err      error          // why the payload cannot be read
}

// Export shows every event that can be read in a log, damaged or not, in use or not, in the order received, and changes nothing. It keeps about
// 100 bytes in memory for each. Events of which only a marker is left are passed over.
func Export(ctx context.Context, dir string, keys [][]byte, progress func(done, total int64), show func(*Exported) error) (*Report, error) {
	r := &Report{Dir: dir, Damage: []Damage{}, InUse: inUse(dir)}
	x := exporter{dir: dir, keys: newKeyring(keys), events: map[event.Seq]*exported{}, segs: map[uint64]*segment{}}
	v := &survey{dir: dir, keys: x.keys, needKeys: true, report: r, progress: progress, visit: func(s *segment, f *frame, p *parts) error {
		x.segs[s.number] = s
		x.note(s, f, p)
		return ctx.Err()
	}}
	x.at = func() int64 { return v.at }
	defer v.release()
	err := v.run()
	if err == nil {
		err = x.show(ctx, show)
	}
	if err != nil {
		return nil, fmt.Errorf("export journal %q: %w", dir, err)
	}
	return r, nil
}

// exported is where the newest state of an event is.
type exported struct {
	id              event.ID
	rev             uint64
	dups, conflicts uint32
	record          place
	recordSize      uint32
	payload         payloadPos
	attempts        []span
	kept            bool
}

type span struct {
	place
	size uint32
}

type exporter struct {
	dir    string
	keys   keyring
	events map[event.Seq]*exported
	segs   map[uint64]*segment
	at     func() int64 // where the body of the present frame is
}

func (x *exporter) note(s *segment, f *frame, p *parts) {
	seq := f.id.Seq()
	switch f.kind {
	case kindShrink, kindRemove:
		for _, seq := range p.seqs {
			delete(x.events, seq)
		}
		return
	case kindCounts:
		for _, c := range p.counts {
			if e := x.events[c.seq]; e != nil {
				e.dups, e.conflicts = e.dups+c.duplicates, e.conflicts+c.conflicts
			}
		}
		return
	case kindAccept, kindCommit, kindCarry, kindNote:
	default:
		return
	}
	e := x.events[seq]
	switch {
	case p.marker:
		return
	case e == nil && f.kind == kindNote:
		return
	case e == nil:
		e = &exported{}
		x.events[seq] = e
	}
	e.id, e.rev, e.dups, e.conflicts = f.id, f.rev, f.dups, f.conflicts
	if f.kind == kindNote {
		return
	}
	e.kept = f.flags&flagPayload != 0
	at := x.at()
	eachSection(f.body, func(sec section, off int, data []byte) bool {
		pl := place{s.number, at + int64(off)}
		switch sec {
		case secRecord:
			e.record, e.recordSize = pl, uint32(len(data))
		case secAttempt:
			e.attempts = append(e.attempts, span{pl, uint32(len(data))})
		}
		return true
	})
	if p.payload != nil {
		e.payload = p.pos(place{s.number, at})
	}
}

func (x *exporter) show(ctx context.Context, show func(*Exported) error) error {
	seqs := make([]event.Seq, 0, len(x.events))
	for seq := range x.events {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		if err := ctx.Err(); err != nil {
			return err
		}
		out, err := x.one(x.events[seq])
		if err != nil {
			return err
		}
		if err := show(out); err != nil {
			return err
		}
	}
	return nil
}

func (x *exporter) one(e *exported) (*Exported, error) {
	b, err := x.read(span{e.record, e.recordSize})
	if err != nil {
		return nil, err
	}
	out := &Exported{}
	if out.Record, err = decodeRecord(b); err != nil {
		return nil, err
	}
	out.Record.ID, out.Record.Seq, out.Record.Rev = e.id, e.id.Seq(), e.rev
	out.Record.Duplicates, out.Record.Conflicts, out.Record.HasPayload = e.dups, e.conflicts, e.kept
	byN := map[int]event.Attempt{}
	for _, at := range e.attempts {
		b, err := x.read(at)
		if err != nil {
			return nil, err
		}
		if a, err := decodeAttempt(b); err == nil {
			byN[a.N] = a
		}
	}
	for _, a := range byN {
		out.Attempts = append(out.Attempts, a)
	}
	sort.Slice(out.Attempts, func(i, j int) bool { return out.Attempts[i].N < out.Attempts[j].N }) // a generic sort of so large a struct weighs 20 KiB
	if !e.kept {
		return out, nil
	}
	out.Payload, out.Err = x.payload(e.payload)
	return out, nil
}

func (x *exporter) read(s span) ([]byte, error) {
	f, done, err := x.segs[s.segment].open()
	if err != nil {
		return nil, err
	}
	defer done()
	b := make([]byte, s.size)
	if _, err := f.ReadAt(b, s.offset); err != nil {
		return nil, err
	}
	crypt(x.segs[s.segment].block, b, b, s.offset)
	return b, nil
}

func (x *exporter) payload(at payloadPos) (*event.Payload, error) {
	if at.size == 0 {
		return nil, errNowhere
	}
	b, err := x.read(span{place{at.segment, at.offset}, at.size})
	if err != nil {
		return nil, err
	}
	return openPayload(b, at, filepath.Join(x.dir, nameLog))
}
