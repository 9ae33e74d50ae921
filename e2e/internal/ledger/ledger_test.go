package ledger

import (
	"strings"
	"testing"
	"time"
)

// A judge that cannot find anything proves nothing: each kind of wrong is found.
func TestJudgeFindsEveryWrong(t *testing.T) {
	body := []byte("x")
	deliver := func(b *Book, marked bool) {
		b.Done(b.Arrive("e", body, "k", marked, "", 0), 200)
	}
	cases := []struct {
		name, want string
		run        func(b *Book) map[string]string
	}{
		{"all well", "", func(b *Book) map[string]string {
			deliver(b, false)
			b.Answer("e", 200, "delivered", "", 0)
			return map[string]string{"e": "delivered/"}
		}},
		{"lost", "not in the journal", func(b *Book) map[string]string { b.Answer("e", 202, "accepted", "", 0); return nil }},
		{"never delivered", "ends as pending/queued", func(b *Book) map[string]string {
			b.Answer("e", 202, "accepted", "", 0)
			return map[string]string{"e": "pending/queued"}
		}},
		{"marked as delivered, was not", "never took it", func(b *Book) map[string]string {
			b.Answer("e", 202, "accepted", "", 0)
			return map[string]string{"e": "delivered/"}
		}},
		{"dead letter of what was delivered", "ends as failed/corrupt", func(b *Book) map[string]string {
			deliver(b, false)
			b.Answer("e", 202, "accepted", "", 0)
			return map[string]string{"e": "failed/corrupt"}
		}},
		{"stale, and taken", "ends as rejected/stale", func(b *Book) map[string]string {
			deliver(b, false)
			b.Answer("e", 200, "stale", "", 0)
			return map[string]string{"e": "rejected/stale"}
		}},
		{"twice without a cut", "without an interruption", func(b *Book) map[string]string { deliver(b, false); deliver(b, true); return nil }},
		{"repeat without a mark", "without a mark", func(b *Book) map[string]string {
			deliver(b, false)
			b.Cut(Kill, time.Now())
			deliver(b, false)
			return nil
		}},
		{"repeat with a mark", "", func(b *Book) map[string]string {
			deliver(b, false)
			b.Cut(Kill, time.Now())
			deliver(b, true)
			return nil
		}},
		{"repeat of what was settled long ago", "only 0 in flight", func(b *Book) map[string]string {
			deliver(b, false)
			b.Cut(Kill, time.Now().Add(time.Hour))
			deliver(b, true)
			return nil
		}},
		{"power cut, not acknowledged, unmarked", "", func(b *Book) map[string]string {
			deliver(b, false)
			b.Cut(Power, time.Now())
			deliver(b, false)
			return nil
		}},
		{"power cut, acknowledged, unmarked", "without a mark", func(b *Book) map[string]string {
			deliver(b, false)
			b.Answer("e", 200, "delivered", "", 0)
			b.Cut(Power, time.Now())
			deliver(b, false)
			return map[string]string{"e": "delivered/"}
		}},
		{"repeat of what its sender was told", "had been told", func(b *Book) map[string]string {
			deliver(b, false)
			b.Answer("e", 200, "delivered", "", 0)
			b.Cut(Kill, time.Now())
			deliver(b, true)
			return map[string]string{"e": "delivered/"}
		}},
		{"altered", "other bytes", func(b *Book) map[string]string {
			b.Done(b.Arrive("e", []byte("y"), "k", false, "", 0), 200)
			return nil
		}},
		{"other idempotency key", "idempotency keys", func(b *Book) map[string]string {
			b.Done(b.Arrive("e", body, "k", false, "", 0), 503)
			b.Done(b.Arrive("e", body, "l", false, "", 0), 200)
			return nil
		}},
		{"forged and forwarded", "forged and forwarded", func(b *Book) map[string]string {
			b.Send("f", body, true)
			b.Done(b.Arrive("f", body, "k", false, "", 0), 200)
			return nil
		}},
		{"forged and answered", "answered 200", func(b *Book) map[string]string {
			b.Send("f", body, true)
			b.Answer("f", 200, "delivered", "", 0)
			return nil
		}},
		{"unknown", "nobody sent it", func(b *Book) map[string]string { b.Arrive("z", body, "k", false, "", 0); return nil }},
		{"out of order", "came after 2", func(b *Book) map[string]string {
			b.Done(b.Arrive("e", body, "k", false, "r", 2), 200)
			b.Send("d", body, false)
			b.Done(b.Arrive("d", body, "k", false, "r", 1), 200)
			return nil
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := &Book{}
			b.Send("e", body, false)
			r := b.Judge(c.run(b))
			switch err := r.Err(); {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("found %v, not %q", err, c.want)
			}
		})
	}
}
