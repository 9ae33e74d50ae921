package cli

import (
	"encoding/json"
	"io"
	"sort"

	"github.com/hooktender/hooktender/admin/api"
)

// deadGroup is the dead letters of one source that failed in the same way.
type deadGroup struct {
	source, reason, failure string
	events                  []*api.Event // newest first
}

// groupDead sorts dead letters by source and error, the largest group of a source first.
func groupDead(events []api.Event) []deadGroup {
	at := map[[3]string]int{}
	var groups []deadGroup
	for i := range events {
		ev := &events[i]
		failure := ""
		if ev.LastError != nil {
			failure = ev.LastError.Kind + ": " + ev.LastError.Message
		}
		key := [3]string{ev.Source, string(ev.Reason), failure}
		n, ok := at[key]
		if !ok {
			n = len(groups)
			at[key] = n
			groups = append(groups, deadGroup{source: key[0], reason: key[1], failure: key[2]})
		}
		groups[n].events = append(groups[n].events, ev)
	}
	sort.SliceStable(groups, func(i, j int) bool { // a generic sort weighs more
		a, b := &groups[i], &groups[j]
		return a.source < b.source || a.source == b.source && len(a.events) > len(b.events)
	})
	return groups
}

// printDead is printEvents for dead letters: a summary by source and error, then the events of each group.
func (e *env) printDead(raw []byte) error {
	return e.print(raw, func(w io.Writer) {
		var page api.Page[api.Event]
		if json.Unmarshal(raw, &page) != nil {
			return
		}
		if len(page.Data) == 0 {
			e.note("no dead letters")
			return
		}
		groups := groupDead(page.Data)
		e.showDeadGroups(w, groups)
		_, _ = io.WriteString(w, "\n") // to memory
		t := e.table("ID", "EVENT", "SOURCE", "TYPE", "RESOURCE", "STATE", "ATTEMPTS", "RECEIVED", "SAFE TO RETRY")
		for i := range groups {
			for _, ev := range groups[i].events {
				safe := cell{text: ev.SafeToRetry.Verdict, paint: green}
				if safe.text != api.RetryYes {
					safe.paint = yellow
				}
				t.row(ev.ID, string(ev.EventID), ev.Source, string(ev.Type), versioned(ev), stateCell(ev), ev.AttemptCount, e.ago(ev.ReceivedAt), safe)
			}
		}
		t.writeTo(w)
		if page.NextCursor != "" {
			e.note("there are more than these %d, which alone are counted above", len(page.Data))
		}
		e.more(&page)
	})
}

func (e *env) showDeadGroups(w io.Writer, groups []deadGroup) {
	t := e.table("SOURCE", "REASON", "ERROR", "EVENTS", "OLDEST", "NEWEST")
	for _, g := range groups {
		newest, oldest := g.events[0].ReceivedAt, g.events[0].ReceivedAt
		for _, ev := range g.events {
			if ev.ReceivedAt.Before(oldest.Time) {
				oldest = ev.ReceivedAt
			}
			if ev.ReceivedAt.After(newest.Time) {
				newest = ev.ReceivedAt
			}
		}
		t.row(g.source, g.reason, g.failure, cell{itoa(int64(len(g.events))), red}, e.ago(oldest), e.ago(newest))
	}
	t.writeTo(w)
}
