package recovery_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// told are the first n calls of a reader of changes, and the cursor of each.
func (b *bed) told(cursor string, n int) (what, cursors []string) {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	enough := errors.New("enough")
	err := b.r.Changes(ctx, cursor, func(at string, rec *event.Record) error {
		text := "begin"
		if rec != nil {
			text = rec.EventID + " " + rec.State.String()
		}
		if what, cursors = append(what, text), append(cursors, at); len(what) == n {
			return enough
		}
		return nil
	})
	if err != enough {
		b.t.Fatal(err)
	}
	return what, cursors
}

// A reader that had heard of no change when the gateway went away goes on from where it had begun.
func TestAReaderOfAQuietGatewayKnowsWhereItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		b.up()
		b.send("before", "", "")
		_, began := b.told("", 1)
		b.restart()
		b.send("evt_1", "", "")
		if what, _ := b.told(began[0], 1); !slices.Equal(what, []string{"evt_1 delivered"}) {
			t.Error(what)
		}
	})
}

// A power cut takes what was not on the disk yet, of which a reader may have heard: it is told what there is, in place of a refusal for good.
func TestAReaderThatHeardMoreThanAPowerCutLeftGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		b.up()
		b.send("evt_1", "", "")
		what, cursors := b.told("1000000", 1)
		if !slices.Equal(what, []string{"evt_1 delivered"}) {
			t.Error(what)
		}
		b.send("evt_2", "", "")
		if what, _ = b.told(cursors[0], 1); !strings.HasPrefix(what[0], "evt_2 ") {
			t.Error(what)
		}
		for _, cursor := range []string{"x", "-1", "1.5", " 1", "99999999999999999999999"} {
			if err := b.r.Changes(context.Background(), cursor, nil); err != journal.ErrBadCursor {
				t.Errorf("%q: %v", cursor, err)
			}
		}
	})
}
