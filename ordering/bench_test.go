package ordering

import (
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
)

// BenchmarkLane is one event of a lane under reject_stale: judged, entered, departed and delivered.
func BenchmarkLane(b *testing.B) {
	p := policy(b, stalePolicy)
	l := NewLane(p, event.ResourceState{Version: "1"})
	v, err := p.Version("7")
	if err != nil {
		b.Fatal(err)
	}
	e := &Entry{ID: event.MakeID(time.Unix(1, 0), 1, 0), Version: v, Text: "7"}
	b.ReportAllocs()
	for b.Loop() {
		if l.Judge(v) != Pass {
			b.Fatal("not let through")
		}
		l.Add(e)
		if s := l.Next(1); s.Go != e {
			b.Fatal("not sent on its way")
		}
		_, _, _ = l.After(e, WasDelivered)
		l.Delivered(e)
	}
}

// BenchmarkVersion reads a version.
func BenchmarkVersion(b *testing.B) {
	p := policy(b, stalePolicy)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Version("1769000000123"); err != nil {
			b.Fatal(err)
		}
	}
}
