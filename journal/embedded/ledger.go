package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hooktender/hooktender/event"
)

// The ledger is a small file beside the log that says how far the log had reached the disk and how old its oldest segment
// is. It is written after every fsync (two slots in turn, each with a checksum) and itself fsynced only now and then: it
// may lag, but never claims too much. A log that ends before it has lost what was acknowledged.
type ledger struct {
	file  *os.File
	turn  uint64
	state ledgerState
}

type ledgerState struct {
	synced uint64    // the log's frames up to here were on disk
	lowest uint64    // number of the oldest segment
	newest uint64    // number of the newest
	next   event.Seq // first event number that was not given out yet, or a later one
	mark             // of the clocks
}

const (
	ledgerSlot  = 512
	ledgerSize  = 84 // of what a slot holds
	ledgerMagic = "HTNDRLED"
)

// encode is a slot: magic, turn, synced, lowest, newest, next, four clocks, checksum.
func (s ledgerState) encode(turn uint64) []byte {
	b := make([]byte, 0, ledgerSize)
	b = append(b, ledgerMagic...)
	for _, v := range [...]uint64{turn, s.synced, s.lowest, s.newest, uint64(s.next), uint64(s.journal), uint64(s.wall), s.boot.id, uint64(s.boot.nanos)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

func parseLedgerSlot(b []byte) (s ledgerState, turn uint64, ok bool) {
	if len(b) < ledgerSize || string(b[:8]) != ledgerMagic || binary.LittleEndian.Uint32(b[ledgerSize-4:]) != checksum(b[:ledgerSize-4]) {
		return s, 0, false
	}
	le := binary.LittleEndian
	s = ledgerState{synced: le.Uint64(b[16:]), lowest: le.Uint64(b[24:]), newest: le.Uint64(b[32:]), next: event.Seq(le.Uint64(b[40:])), mark: mark{
		journal: int64(le.Uint64(b[48:])), wall: int64(le.Uint64(b[56:])), boot: bootTime{le.Uint64(b[64:]), int64(le.Uint64(b[72:]))},
	}}
	return s, le.Uint64(b[8:]), true
}

// readLedger reads the newer slot. It returns fs.ErrNotExist if there is no ledger, or a blank one: the first start was cut short as it made it.
func readLedger(path string) (s ledgerState, turn uint64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, 0, err
	}
	if allZero(b) {
		return s, 0, fmt.Errorf("%s is blank: %w", path, fs.ErrNotExist)
	}
	found := false
	for at := 0; at+ledgerSlot <= len(b); at += ledgerSlot {
		if x, n, ok := parseLedgerSlot(b[at:]); ok && (!found || n > turn) {
			s, turn, found = x, n, true
		}
	}
	if !found {
		return s, 0, damaged(path, "no slot of the ledger matches its checksum")
	}
	return s, turn, nil
}

// openLedger opens the ledger for writing, or makes one that says s.
func openLedger(path string, s ledgerState) (*ledger, error) {
	old, turn, err := readLedger(path)
	create := errors.Is(err, fs.ErrNotExist)
	if err != nil && !create {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{file: f, turn: turn, state: old}
	if !create {
		return l, nil
	}
	if err := errors.Join(zeroFill(f, 2*ledgerSlot), l.write(s), f.Sync(), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// write records s in the slot whose turn it is. It does not wait for the disk.
func (l *ledger) write(s ledgerState) error {
	l.turn++
	n, err := l.file.WriteAt(s.encode(l.turn), int64(l.turn%2)*ledgerSlot)
	if err == nil && n < ledgerSize {
		err = io.ErrShortWrite
	}
	l.state = s
	return err
}
