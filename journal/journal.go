// Package journal says what a durable record of events must do: the seam between hooktender's rooms and the engine that
// keeps their state. Rooms share a commit, not each other: accepting an event, moving its resource's cursor and recording
// an attempt are one atom. The interface speaks of events, never of keys of a store, and batch is its only form.
//
// journal/embedded is the one-machine engine; journal/journaltest is the contract as tests.
package journal

import (
	"context"
	"errors"
	"time"

	"github.com/hooktender/hooktender/event"
)

// Durability of a write.
type Durability uint8

const (
	// Written survives a killed process: the operating system has the bytes.
	Written Durability = iota
	// Synced survives a power cut: the disk has confirmed the bytes. With sync: none it is the same as Written.
	Synced
)

// Sentinels. Every other error of a writing method is final (see ErrFailed).
var (
	// ErrFailed: a write or fsync failed. It is final: no later write succeeds, Failed is closed, and the process must stop
	// answering for events. Wrapped with the cause.
	ErrFailed = errors.New("journal failed")
	// ErrFull: free disk space is below the bound. From Accept: nothing was written and no mark is left. Beside ctx's error: what is asked for waits for space.
	ErrFull = errors.New("journal: disk space below min_free")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("journal closed")
	// ErrNotFound: no record of that id.
	ErrNotFound = errors.New("no such event")
	// ErrNoPayload: the record is there, its payload is gone (retention).
	ErrNoPayload = errors.New("payload is gone")
	// ErrCorrupt: the stored bytes do not match their checksum. Never forward what came with it.
	ErrCorrupt = errors.New("stored bytes are damaged")
	// ErrBadCursor: a list cursor that no List made.
	ErrBadCursor = errors.New("bad cursor")
	// ErrLocked: another process holds the journal.
	ErrLocked = errors.New("journal is in use by another process")
	// ErrKey: the journal is encrypted with a key that was not given. Open changes nothing.
	ErrKey = errors.New("journal is encrypted with another key")
	// ErrFormat: a newer program wrote the journal. Open changes nothing.
	ErrFormat = errors.New("journal has a newer format")
	// ErrTmpfs: the directory is in memory.
	ErrTmpfs = errors.New("the directory is in memory (tmpfs): nothing there survives a reboot")
	// ErrDamaged: the journal's files are damaged; wrapped with the file's name. Open changes nothing.
	ErrDamaged = errors.New("journal is damaged")
)

// Accept is a request to claim and store one new event.
type Accept struct {
	// Record is the first version of the record. ID, Seq and Rev are assigned by the journal. Source, State and ReceivedAt
	// are required. A record in state Pending with reason Delivering has its first attempt under way.
	Record event.Record
	// Payload is stored with the record unless nil. The journal copies what it keeps before Accept returns.
	Payload *event.Payload
	// Keys are claimed together: if any of them is known (within the dedup window), nothing is stored and the verdict is Duplicate.
	// The first key is the event's own; more are further replay keys. At most 4.
	Keys []event.Key
	// Aliases are set to this event without being claimed; a later event takes an alias over.
	Aliases []event.Key
	// Cursor, if not nil, is written in the same commit.
	Cursor *event.ResourceState
}

// Verdict answers one Accept.
type Verdict struct {
	// Accepted: the event is stored. False: Duplicate; Record is then the record of the known event (without Seq order
	// meaning anything to the caller), or, where only its marker is left, a record with just ID, State, Reason, ReceivedAt and BodySHA256.
	Accepted bool
	// Key is the index in Accept.Keys of the key that was known; -1 if accepted.
	Key    int
	Record event.Record
}

// Transition replaces the record of an event, if nobody else did since it was read.
type Transition struct {
	// Record is the complete new value. Record.Rev must be the revision that was read; the journal assigns the next. Of any two
	// commits, to whatever events, the later has the higher revision.
	Record event.Record
	// Attempt, if not nil, is stored under Record.ID and Attempt.N (replacing what is there).
	Attempt *event.Attempt
	// Cursor, if not nil, is written in the same commit.
	Cursor *event.ResourceState
	// Payload, if not nil, replaces the stored payload (a redelivery with other bytes).
	Payload *event.Payload
}

// Outcome answers one Transition.
type Outcome struct {
	// Applied is false if Rev did not match or there is no such event; then Record is what is there now (zero if nothing).
	Applied bool
	// Record is the record after the commit, with its new Rev.
	Record event.Record
}

// A Journal remembers every verified event: its claim, its bytes, what was tried and what became of it.
// All methods are safe for concurrent use. What one call has written, every later call sees, at either durability.
type Journal interface {
	// Accept claims and stores events. Each verdict is as durable as its event: a Duplicate is answered only once the
	// original has reached the same Durability. Exactly one of any number of concurrent claims of a key is Accepted.
	// Errors: ErrFull, ErrFailed, ErrClosed, or ctx's (then the outcome is open: the event may have been stored).
	Accept(ctx context.Context, evs []Accept, d Durability) ([]Verdict, error)

	// Commit applies transitions: state, attempt and cursor, atomically per item, if Rev still holds. With no transitions
	// it waits until everything written before has reached d. Errors as for Accept, but never ErrFull: an event that was accepted can always be
	// brought to its end.
	Commit(ctx context.Context, ts []Transition, d Durability) ([]Outcome, error)

	// Note adds to the counters of duplicates and conflicts of an event. It does not wait and does not change Rev; it is
	// visible to reads at once, Written some milliseconds later at most, and lost without harm if the event is gone.
	Note(id event.ID, duplicates, conflicts uint32)

	// Lookup gives the fate under each key, the zero Fate where there is none or the dedup window (judged against stored
	// times) has passed. It sees what is Written; a caller that answers for it waits with Commit(ctx, nil, Synced).
	Lookup(ctx context.Context, keys []event.Key) ([]event.Fate, error)

	// Get reads a record, with its payload if asked. Errors: ErrNotFound, where only the marker is left with a record as in Verdict; ErrNoPayload
	// and ErrCorrupt come with a valid Record.
	Get(ctx context.Context, id event.ID, withPayload bool) (event.Record, *event.Payload, error)

	// Attempts lists the attempts of an event, in order of N. A running attempt is listed with OutcomeNone.
	Attempts(ctx context.Context, id event.ID) ([]event.Attempt, error)

	// List finds records, a page at a time.
	List(ctx context.Context, q Query) (Page, error)

	// Pending calls fn with the events that are in state Pending when it is called, in order of Seq, a page at a time; for building schedules and lanes at start. The calls come
	// one after the other, but from any goroutine; fn may use the journal. A page is valid during the call only; its strings are for keeps, but share memory: of what is
	// to stay for long, clone them. An error of fn ends the walk, and is returned as it is.
	Pending(ctx context.Context, fn func(page []event.Record) error) error

	// Resources reads the state of resources; a zero UpdatedAt where there is none.
	Resources(ctx context.Context, keys []event.ResourceKey) ([]event.ResourceState, error)

	// SetCursor replaces the state of a resource, whatever it was; for an operator's decision. A delivery moves it in its Transition.
	SetCursor(ctx context.Context, st event.ResourceState, d Durability) error

	// Counts gives the number of records per source, state and reason; cheap (no scan).
	Counts(ctx context.Context) ([]Count, error)

	// Checkpoint says how far a source has come (SPEC §8).
	Checkpoint(ctx context.Context, source string) (Checkpoint, error)

	// Meta is a small store beside the events (≤ 64 KiB a value) for what rooms must not forget: replay jobs, pauses, breakers.
	// MetaGet gives nil for an unknown key. MetaPut with nil deletes. MetaList gives keys with the prefix, in order.
	MetaGet(ctx context.Context, key string) ([]byte, error)
	MetaPut(ctx context.Context, key string, value []byte, d Durability) error
	MetaList(ctx context.Context, prefix string) ([]MetaEntry, error)

	// Sweep applies retention as of now to at most limit events and says how many it changed; fewer than limit = nothing left to do.
	Sweep(ctx context.Context, now time.Time, limit int) (int, error)

	// Stats is what metrics show. Cheap.
	Stats() Stats

	// Failed is closed when the journal has failed for good; Err then says why.
	Failed() <-chan struct{}
	Err() error

	// Close writes what is pending, syncs and releases the files. Later calls return ErrClosed.
	Close() error
}

// Query selects records. Zero fields select everything.
type Query struct {
	Source   string
	States   []event.State
	Reasons  []event.Reason
	Type     string
	Resource string
	EventID  string    // the sender's id
	ReplayID string    // last replay
	Since    time.Time // ReceivedAt, inclusive
	Until    time.Time // ReceivedAt, exclusive
	MaxSeq   event.Seq // 0 = no bound; inclusive
	Asc      bool      // oldest first; default newest first
	Limit    int       // 1 … 500; 0 = 100
	Cursor   string    // Page.Next of the page before; "" = the first page
	AsOf     uint64    // a revision (Stats.LastRev): what was written later need not be looked at; 0 = all that is written
}

// Page is one page of records in order of Seq.
type Page struct {
	Records []event.Record
	Next    string // "" at the end
}

// Count is a number of records.
type Count struct {
	Source string
	State  event.State
	Reason event.Reason
	N      int64
}

// Checkpoint of a source: everything up to Seq is settled (event.Record.Settled).
type Checkpoint struct {
	Source        string
	Seq           event.Seq // 0 = nothing is settled yet
	Record        event.Record
	Holes         int64 // unsettled events after Seq and before the newest settled one
	Pending       int64
	Failed        int64 // dead letters
	LastDelivered event.Record
	OldestPending time.Time // ReceivedAt of the oldest pending event; zero if none
}

// MetaEntry is a key and its value.
type MetaEntry struct {
	Key   string
	Value []byte
}

// Stats of an engine, for metrics and health.
type Stats struct {
	Bytes         int64     // on disk
	FreeBytes     uint64    // free on the volume
	Full          bool      // below min_free: Accept answers ErrFull
	Groups        int64     // group commits so far
	Items         int64     // items in them
	Syncs         int64     // fsyncs so far
	SyncNanos     int64     // time spent in them
	CoversSince   time.Time // the log remembers everything received since
	Forgets       time.Time // ids of events that were received before are forgotten
	OldestSegment time.Time
	Born          time.Time // when the journal was made
	LastRev       uint64    // of the commits that reads see, none has a higher revision
}

// Observer hears of every record after it was written, in commit order per event, one call at a time. It must not block,
// nor keep now: the record is valid during the call only. old is zero for a new event.
type Observer func(old event.State, oldReason event.Reason, now *event.Record)
