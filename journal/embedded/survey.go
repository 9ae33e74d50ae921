package embedded

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Report is what a journal's log was found to be like.
type Report struct {
	Dir               string   `json:"dir"`
	InUse             bool     `json:"in_use"` // a gateway holds it; what it writes meanwhile was not looked at
	Segments          int      `json:"segments"`
	Bytes             int64    `json:"bytes"`
	Changes           uint64   `json:"changes"`              // frames that are whole
	Events            uint64   `json:"events"`               // events that were accepted in what is left of the log
	MissingChanges    uint64   `json:"missing_changes"`      // acknowledged, and lost
	MissingEvents     uint64   `json:"missing_events"`       // acknowledged, and nothing of them is left
	OlderMayBeMissing bool     `json:"older_may_be_missing"` // what is lost may have been older events, carried forward: nobody can tell, and they are not counted
	DamagedPayloads   uint64   `json:"damaged_payloads"`     // their records are whole
	Corrupt           int      `json:"corrupt"`              // salvage: pending events that became failed/corrupt
	Doubtful          int      `json:"doubtful"`             // salvage: pending events that may have been delivered before
	Damage            []Damage `json:"damage"`
	Kept              string   `json:"kept"` // salvage: where the damaged files are
}

// Damage is one place that is not as it was written.
type Damage struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	What   string `json:"what"`
}

// Whole says whether nothing is damaged.
func (r *Report) Whole() bool { return len(r.Damage) == 0 }

// maxDamage bounds the places that a report lists.
const maxDamage = 1000

// A survey reads a whole log that may be damaged, changes nothing, and shows every frame that can be trusted, in order.
type survey struct {
	dir      string
	keys     keyring
	known    ledgerState
	blind    bool // the ledger is unreadable
	holes    bool // frames may be lost
	needKeys bool // an encrypted segment whose key is not there is an error
	report   *Report
	visit    func(s *segment, f *frame, p *parts) error
	progress func(done, total int64)

	lsn      uint64            // of the next frame; 0 = not known yet
	next     event.Seq         // of the next event; 0 = not known yet
	first    event.Seq         // the first event that the log can have accepted; 0 = not known
	seen     map[uint64]uint64 // bits: events of which something was read
	fresh    bool              // nothing of its event was read before the frame that is shown
	lost     bool              // frames are missing since next was set
	left     [][2]event.Seq    // from, to: passed over though no frame was missing
	ahead    int               // 1 + the index of those that may come in the segment that is read; 0 = none may
	lostThen uint64            // how many changes were missing when it began
	lastLost uint64            // number of the last frame that is missing
	done     int64
	held     []*os.File
	before   *segment // the one that was read before
	at       int64    // where the body of the frame is that is shown
}

// Check reads the whole log of a journal, also of one in use, and says what is wrong with it. It changes nothing. Without the
// keys of an encrypted journal only checksums are looked at. progress may be nil.
// An error means that it could not be read at all.
func Check(ctx context.Context, dir string, keys [][]byte, progress func(done, total int64)) (*Report, error) {
	return check(ctx, dir, keys, inUse(dir), progress)
}

// check is Check of a journal that another process has in use, or none.
func check(ctx context.Context, dir string, keys [][]byte, inUse bool, progress func(done, total int64)) (*Report, error) {
	v := &survey{dir: dir, keys: newKeyring(keys), report: &Report{Dir: dir, Damage: []Damage{}, InUse: inUse}, progress: progress, visit: func(*segment, *frame, *parts) error { return ctx.Err() }}
	defer v.release()
	if err := v.run(); err != nil {
		return nil, fmt.Errorf("check journal %q: %w", dir, err)
	}
	return v.report, nil
}

// inUse says whether a process holds the journal.
func inUse(dir string) bool {
	f, err := os.Open(filepath.Join(dir, nameLock))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// damage notes a place behind which frames may be lost.
func (v *survey) damage(file string, at int64, format string, args ...any) {
	v.holes = true
	v.note(file, at, format, args...)
}

// note notes a place at which no frame is lost.
func (v *survey) note(file string, at int64, format string, args ...any) {
	if len(v.report.Damage) < maxDamage {
		v.report.Damage = append(v.report.Damage, Damage{file, at, fmt.Sprintf(format, args...)})
	}
}

func (v *survey) run() error {
	log := filepath.Join(v.dir, nameLog)
	if _, err := os.Stat(v.dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(v.dir, nameFormat)); err == nil {
		if err := readFormat(v.dir); errors.Is(err, journal.ErrDamaged) {
			v.note(filepath.Join(v.dir, nameFormat), 0, "not a journal's format file")
		} else if err != nil {
			return err
		}
	}
	path := filepath.Join(v.dir, nameLedger)
	known, _, err := readLedger(path)
	segs, listErr := listSegments(log)
	if v.report.InUse && err == nil && listErr == nil {
		segs, known.lowest, listErr = v.hold(segs)
	}
	switch {
	case listErr != nil && errors.Is(listErr, fs.ErrNotExist) && errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s holds no journal: %w", v.dir, fs.ErrNotExist)
	case listErr != nil && !errors.Is(listErr, fs.ErrNotExist):
		return listErr
	case err != nil && len(segs) == 0 && errors.Is(err, fs.ErrNotExist):
		return nil // created and never used
	case err != nil:
		v.damage(path, 0, "the ledger is missing or does not match its checksum")
		v.blind = true
	}
	if len(segs) > 0 {
		if _, err := os.Stat(filepath.Join(v.dir, nameFormat)); err != nil {
			v.note(filepath.Join(v.dir, nameFormat), 0, "the file is missing")
		}
	}
	if v.known = known; v.blind && len(segs) > 0 {
		v.known.lowest, v.known.newest = segs[0].number, segs[len(segs)-1].number
	}
	return v.segments(segs)
}

// hold opens the segments of a journal in use: they stay readable if retention takes some away meanwhile. It gives those that are still there, and the number
// of the oldest that must be.
func (v *survey) hold(segs []*segment) (there []*segment, lowest uint64, err error) {
	for _, s := range segs {
		s.held, err = os.Open(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the ledger knew before
		}
		if err != nil {
			return nil, 0, err
		}
		v.held, there = append(v.held, s.held), append(there, s)
	}
	known, _, err := readLedger(filepath.Join(v.dir, nameLedger))
	return there, known.lowest, err
}

// release closes what hold has opened.
func (v *survey) release() { closeAll(v.held) }

func (v *survey) segments(segs []*segment) error {
	segs = v.sort(segs)
	for len(segs) > 0 && segs[0].number < v.known.lowest {
		segs = segs[1:]
	}
	var total int64
	for _, s := range segs {
		total += s.size
	}
	born := bornOf(segs)
	strange := func(s *segment) bool { return s.born != 0 && s.born != born }
	if v.known.lowest == 1 && (len(segs) == 0 || segs[0].number > 1 || strange(segs[0])) { // the first of all is missing
		v.lsn, v.next, v.first = 1, 1, 1
	}
	dir, number := filepath.Join(v.dir, nameLog), max(v.known.lowest, 1)
	for i, s := range segs {
		if v.report.InUse && s.number > v.known.newest {
			break
		}
		for ; number < s.number && number-v.known.lowest < 1<<20; number++ {
			v.damage(segmentPath(dir, number), 0, "the segment is missing")
		}
		number = s.number + 1
		if strange(s) {
			v.damage(s.path, 0, foreign)
			continue
		}
		if err := v.segment(s, i == len(segs)-1); err != nil {
			return err
		}
		v.before = s
		v.report.Segments++
		v.report.Bytes += s.size
		if v.done += s.size; v.progress != nil {
			v.progress(v.done, total)
		}
	}
	for ; number <= v.known.newest; number++ {
		v.damage(segmentPath(dir, number), 0, "the segment is missing")
	}
	if last := v.known.synced; last > 0 && last >= v.lsn {
		v.lose(last + 1)
		if end := v.before; end != nil && len(v.report.Damage) == 0 {
			v.damage(end.path, end.size, "the log ends before frame %d, which the disk had confirmed", last)
		}
	}
	v.caughtUp(0)
	v.skip(v.known.next)
	v.report.OlderMayBeMissing = v.first != 1 && (v.holes || v.report.MissingChanges > 0)
	return nil
}

// sort gives the segments in the order that their headers tell, should some have changed names.
func (v *survey) sort(segs []*segment) []*segment {
	sorted, taken := slices.Clone(segs), map[uint64]bool{}
	numbers := make([]uint64, len(segs))
	for i, s := range segs {
		numbers[i] = s.number
		if b, err := s.window(0, segmentHeadSize); err == nil && len(b) == segmentHeadSize {
			if n := binary.LittleEndian.Uint64(b[16:]); n != s.number {
				if _, ok := parseSegmentHead(b, n); ok {
					numbers[i] = n
				}
			}
		}
		if taken[numbers[i]] {
			return segs // of two with one number nobody can tell
		}
		taken[numbers[i]] = true
	}
	for i, s := range sorted {
		if s.number != numbers[i] {
			v.damage(s.path, 0, "it is segment %d of the log under another name", numbers[i])
			s.number = numbers[i]
		}
	}
	slices.SortFunc(sorted, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	return sorted
}

// bornOf reads the headers of a log's segments and says when most of the journals that they are of were made: what is of another has none of its events. Of
// as many it is the later segments' journal.
func bornOf(segs []*segment) (born int64) {
	times := map[int64]int{}
	for _, s := range segs {
		if _, err := s.readHead(); err != nil || s.born == 0 { // what cannot be read is found later
			continue
		}
		if times[s.born]++; times[s.born] >= times[born] {
			born = s.born
		}
	}
	return born
}

// lose notes that the frames below to are not there.
func (v *survey) lose(to uint64) {
	if v.lsn != 0 && to > v.lsn {
		v.report.MissingChanges += to - v.lsn
		v.lastLost = to - 1
	}
	v.lsn, v.lost = to, true
}

// skip notes that the next event is not the one before to: what is between is missing if frames are, else it comes yet (a segment's header may
// be ahead of its first frames) or a salvage has left it out long ago.
func (v *survey) skip(to event.Seq) {
	if v.next == 0 || to <= v.next {
		return
	}
	if v.lost {
		v.report.MissingEvents += uint64(to - v.next)
	} else {
		v.left = append(v.left, [2]event.Seq{v.next, to})
	}
	v.next, v.lost = to, false
}

// caughtUp looks, at the end of a segment, for what its header was ahead of: what did not come is missing, as far as frames are.
func (v *survey) caughtUp(lost uint64) {
	if v.ahead == 0 {
		return
	}
	at := v.ahead - 1
	v.ahead = 0
	if lost += v.report.MissingChanges - v.lostThen; lost == 0 {
		return
	}
	r, missing := v.left[at], uint64(0)
	for seq := r[0]; seq < r[1] && missing < lost; seq++ {
		if v.seen[uint64(seq)>>6]&(1<<(seq&63)) == 0 {
			missing++
		}
	}
	v.report.MissingEvents += missing
	v.left = slices.Delete(v.left, at, at+1) // whatever of it is found later was taken to be missing
}

// segment reads one segment.
func (v *survey) segment(s *segment, last bool) error {
	data, err := v.load(s)
	if err != nil {
		return err
	}
	genSum, ok := v.head(s, data)
	if !ok {
		return nil
	}
	if s.key != 0 {
		if err := v.keys.open(s); err != nil && (v.keys != nil || v.needKeys) {
			return err
		}
	}
	sealed := s.key != 0 && s.block == nil // without a key only checksums can be looked at
	bad := false
	for at := segmentHeadSize; at+frameHead <= len(data); {
		f, size, ok := parseHead(data[at:], genSum)
		if ok && (v.lsn != 0 && f.lsn < v.lsn || size > len(data)-at-frameHead) {
			ok = false
		}
		if ok && v.report.InUse && f.lsn > v.known.synced {
			return nil
		}
		if ok {
			f.body = data[at+frameHead : at+frameHead+size : at+frameHead+size]
			if sum := checksum(f.body) == f.bodySum; sum || !bad {
				bad = false
				if err := v.frame(s, &f, at, sum, sealed); err != nil {
					return err
				}
				at += frameHead + size
				continue
			}
		}
		if !bad {
			if allZero(data[at:]) {
				return nil
			}
			if last && v.torn(data, at, genSum) {
				return nil // the rest was never acknowledged
			}
			if v.report.InUse && v.lsn > v.known.synced {
				return nil // it was being written
			}
			v.damage(s.path, int64(at), "no frame can be read here")
			bad = true
		}
		at++
	}
	return nil
}

// torn says whether what stands at an offset of the last segment is an unfinished write that nobody was told of.
func (v *survey) torn(data []byte, at int, genSum uint32) bool {
	if v.lsn == 0 || v.known.synced >= v.lsn {
		return false
	}
	sc := &scanner{data: data, genSum: genSum, at: at, lsn: v.lsn}
	return sc.confirmed() < v.lsn
}

// head reads a segment's header; without it the checksum that its frames begin with is computed from one of them.
func (v *survey) head(s *segment, data []byte) (genSum uint32, ok bool) {
	h, ok := parseSegmentHead(data, s.number)
	if ok {
		s.segmentHead = h
		if v.lsn == 0 {
			v.lsn = h.firstLSN
		}
		if v.next == 0 {
			v.next, v.first = event.Seq(h.nextSeq), event.Seq(h.nextSeq)
		}
		v.caughtUp(max(h.firstLSN, v.lsn) - v.lsn)
		v.lost = v.lost || h.firstLSN > v.lsn
		before := len(v.left)
		if v.skip(event.Seq(h.nextSeq)); len(v.left) > before {
			v.ahead, v.lostThen = len(v.left), v.report.MissingChanges
		}
		return generationSum(h.generation), true
	}
	v.damage(s.path, 0, "the segment's header does not match its checksum")
	first := v.lsn == 0 && s.number == 1 && v.known.lowest == 1 // of all: what it held is missing, as if there were no file
	if first {
		v.next, v.first = 1, 1
	}
	s.segmentHead = segmentHead{nextSeq: uint64(v.next)}
	for at := segmentHeadSize; at+frameHead < len(data); at++ {
		if k := kind(data[at+12]); k == 0 || k >= kindEnd {
			continue
		}
		size := int64(binary.LittleEndian.Uint32(data[at:]))
		if size == 0 || size > int64(len(data)-at-frameHead) || checksum(data[at+frameHead:at+frameHead+int(size)]) != binary.LittleEndian.Uint32(data[at+8:]) {
			continue
		}
		return genSumOf(data[at : at+frameHead]), true
	}
	if first {
		v.lsn = 1
	}
	return 0, false
}

// genSumOf computes what the checksum of a frame's header began with: a CRC can be run backwards.
func genSumOf(h []byte) uint32 {
	back := [256]byte{} // the entry of the table whose highest byte is the index
	for i, x := range castagnoli {
		back[x>>24] = byte(i)
	}
	crc := ^binary.LittleEndian.Uint32(h[4:])
	undo := func(b []byte) {
		for i := len(b) - 1; i >= 0; i-- {
			n := back[crc>>24]
			crc = (crc^castagnoli[n])<<8 | uint32(n^b[i])
		}
	}
	undo(h[8:frameHead])
	undo(h[:4])
	return ^crc
}

// frame shows a frame whose header is whole. If the checksum of its body is not, a payload that is damaged alone leaves the rest readable.
func (v *survey) frame(s *segment, f *frame, at int, sum, sealed bool) error {
	if v.lsn != 0 && f.lsn > v.lsn {
		where, offset := s.path, int64(at)
		if v.before != nil && at == segmentHeadSize && v.before.number+1 == s.number {
			where, offset = v.before.path, v.before.size // the one before ends too early
		}
		v.damage(where, offset, "the frames %d to %d are missing", v.lsn, f.lsn-1)
		v.lose(f.lsn)
	}
	if sealed && sum {
		v.count(f)
		return nil
	}
	crypt(s.block, f.body, f.body, int64(at+frameHead))
	p, ok := parseParts(f.body)
	switch {
	case ok && sum:
	case !sealed && ok && p.payload != nil && len(p.record) > 0 && checksum(p.payload[4:]) != binary.LittleEndian.Uint32(p.payload) && readable(&p):
		v.report.DamagedPayloads++
		v.note(s.path, int64(at), "the payload of event %s is damaged", f.id)
	default:
		v.damage(s.path, int64(at), "frame %d does not match its checksum", f.lsn)
		v.lsn = f.lsn
		v.lose(f.lsn + 1)
		return nil
	}
	v.count(f)
	v.at = int64(at + frameHead)
	return v.visit(s, f, &p)
}

func readable(p *parts) bool {
	_, err := decodeRecord(p.record)
	return err == nil
}

// count counts a frame, and its event if something of it is left: a change carries its event whole, so an event whose first frame is lost is not.
func (v *survey) count(f *frame) {
	v.lsn, v.fresh = f.lsn+1, false
	v.report.Changes++
	switch f.kind {
	case kindAccept:
		v.report.Events++
	case kindCommit, kindCarry:
	default:
		return
	}
	seq := f.id.Seq()
	if v.seen == nil {
		v.seen = map[uint64]uint64{}
	}
	word, bit := uint64(seq)>>6, uint64(1)<<(seq&63)
	if v.seen[word]&bit != 0 {
		return
	}
	v.seen[word] |= bit
	v.fresh = true
	switch {
	case v.next == 0 && f.kind == kindAccept:
		v.next, v.first = seq+1, seq
	case v.next == 0 || seq < v.first:
	case seq >= v.next:
		lost := v.lost
		v.skip(seq)
		v.next = seq + 1
		v.lost = lost && f.kind != kindAccept // of what was accepted in the lost frames, a change may be left of one and nothing of the next
	case v.report.MissingEvents > 0 && !slices.ContainsFunc(v.left, func(r [2]event.Seq) bool { return r[0] <= seq && seq < r[1] }):
		v.report.MissingEvents-- // it was taken to be missing
	}
}

// load reads a segment as far as the disk gives it.
func (v *survey) load(s *segment) ([]byte, error) {
	f, done, err := s.open()
	if err != nil {
		return nil, err
	}
	defer done()
	const piece = 64 << 10
	data := make([]byte, s.size)
	for at := 0; at < len(data); at += piece {
		b := data[at:min(at+piece, len(data))]
		if _, err := f.ReadAt(b, int64(at)); err != nil && !errors.Is(err, io.EOF) {
			clear(b)
			v.damage(s.path, int64(at), "cannot be read: %v", err)
		}
	}
	return data, nil
}
