package recovery_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/journaltest"
	"github.com/hooktender/hooktender/recovery"
)

// With retention.record below retention.dedup a record goes before its marker. That the event was delivered is still known, and said; it used to be
// "never received: send it".
func TestADeliveredEventIsNeverUnknownWhileItsIDIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedOn(t, func(_ *bed, observe journal.Observer) (journal.Journal, func()) {
			return journaltest.OpenModel(nil, journaltest.ModelOptions{Config: journaltest.Config{Observer: observe,
				Retention: journal.Retention{Dedup: 5 * time.Hour, Payload: time.Hour, Record: time.Hour, DeadLetter: time.Hour}}}), func() {}
		}, func(*recovery.SourceConfig, *forward.Config) {})
		b.up()
		b.send("evt_1", "", "")
		whole := b.find("evt_1")
		time.Sleep(2 * time.Hour)
		if _, err := b.engine.Sweep(t.Context(), time.Now(), 100); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"evt_1", whole.ID.String()} {
			for _, source := range []string{"", "s"} {
				rec, err := b.r.Find(context.Background(), source, id)
				if err != nil || rec.ID != whole.ID || rec.State != event.Delivered || !rec.ReceivedAt.Equal(whole.ReceivedAt) || b.r.SafeToRetry(&rec).Verdict != "no_need" {
					t.Errorf("%s in %q: %+v, %v", id, source, rec, err)
				}
			}
			if plan, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{id}, DryRun: true}); err != nil || plan.SkippedBy[recovery.SkipDelivered] != 1 {
				t.Errorf("%s: %+v, %v", id, plan, err)
			}
		}
		if res, err := b.r.ReplayOne(t.Context(), whole.ID, "", "ops", false, ""); err != nil || res.Why != recovery.SkipDelivered {
			t.Errorf("replay: %+v, %v", res, err)
		}
		if res, err := b.r.ReplayOne(t.Context(), whole.ID, "", "ops", true, "yes"); err != nil || res.Why != recovery.SkipPayloadGone {
			t.Errorf("forced: %+v, %v", res, err)
		}
		if _, err := b.r.Resolve(t.Context(), whole.ID, "ops", "yes"); err != recovery.ErrNotDeadLetter {
			t.Errorf("resolve: %v", err)
		}
	})
}

// Our ids are found and waited for in lower case, too; a sender's ids that look alike stay the sender's.
func TestAnOwnIDInLowerCaseIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		b.send("evt_1", "", "")
		id := b.find("evt_1").ID
		lower := strings.ToLower(id.String())
		woken, stop := b.r.Watch("", lower, (*event.Record).Terminal)
		defer stop()
		if rec, err := b.r.Find(t.Context(), "", lower); err != nil || rec.ID != id {
			t.Errorf("%+v, %v", rec, err)
		}
		b.up()
		select {
		case <-woken:
		case <-time.After(time.Minute):
			t.Error("nobody woke who waited for it")
		}
		const theirs = "01arz3ndektsv4rrffq69g5fav"
		woken, stop = b.r.Watch("", theirs, (*event.Record).Terminal)
		defer stop()
		b.send(theirs, "", "")
		if rec := b.find(theirs); rec.EventID != theirs || len(woken) != 1 {
			t.Errorf("%q, %d", rec.EventID, len(woken))
		}
	})
}
