package admin

import (
	"context"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

const many = 500

// full is a journal with many records, and told tells of as many changes.
type (
	full struct{ journal.Journal }
	told struct{ Core }
)

func (full) List(context.Context, journal.Query) (journal.Page, error) {
	return journal.Page{Records: make([]event.Record, many)}, nil
}

func (told) Changes(_ context.Context, _ string, emit func(string, *event.Record) error) error {
	for range many {
		if err := emit("1", &event.Record{}); err != nil {
			return err
		}
	}
	return nil
}

func (told) View(*event.Record) {}

func (told) SafeToRetry(*event.Record) recovery.SafeToRetry { return recovery.SafeToRetry{} }

// Who lists very much, or catches up with the stream, keeps no processor from deliveries for longer than a record takes.
func TestListsAndStreamsGiveWay(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := &Server{Options: Options{Journal: full{}, Core: told{}}, stopping: make(chan struct{}), life: context.Background()}
	for name, call := range map[string]func() error{
		"list": func() error { _, err := s.list(t.Context(), journal.Query{Limit: many}); return err },
		"stream": func() error {
			return s.stream(&call{w: httptest.NewRecorder(), r: httptest.NewRequestWithContext(t.Context(), "GET", "/v1/stream", nil)})
		},
	} {
		var turns, stop atomic.Int64
		done := make(chan struct{})
		go func() { // one that others keep waiting
			defer close(done)
			for ; stop.Load() == 0; turns.Add(1) {
				runtime.Gosched()
			}
		}()
		err := call()
		stop.Store(1)
		<-done
		if err != nil || turns.Load() < many/2 {
			t.Errorf("%s: %d turns of another goroutine in %d records, %v", name, turns.Load(), many, err)
		}
	}
}
