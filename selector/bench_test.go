package selector

import (
	"strings"
	"testing"

	"github.com/hooktender/hooktender/event"
)

// BenchmarkIdentify reads id, type, resource and version out of 1 KiB of JSON, and makes the key.
func BenchmarkIdentify(b *testing.B) {
	id, err := CompileIdentity(IdentitySpec{ID: Texts{"json:id"}, Type: Texts{"json:type"}, Resource: Texts{"json:data.object.id"}, Version: Texts{"json:data.object.version"}})
	if err != nil {
		b.Fatal(err)
	}
	req := &event.Request{Body: []byte(`{"id":"evt_1","type":"invoice.paid","pad":"` + strings.Repeat("x", 900) + `","data":{"object":{"id":"in_1","version":7}}}`)}
	b.ReportAllocs()
	for b.Loop() {
		v, err := id.Extract(req, nil)
		if err != nil {
			b.Fatal(err)
		}
		_ = event.MakeKey(event.KeyEvent, v.ID.AppendParts([]string{"s", ""})...)
	}
}

// BenchmarkExtractLarge reads two members out of 64 KiB of short strings and numbers, as lists of line items are.
func BenchmarkExtractLarge(b *testing.B) {
	var doc strings.Builder
	doc.WriteString(`{"id":"evt_1","type":"invoice.paid","lines":[`)
	for doc.Len() < 64<<10 {
		doc.WriteString(`{"object":"line_item","amount":900,"currency":"eur","description":"1 × Plan \"Basic\" (at 9.00 / month)","period":{"end":1771592000,"start":1769000000}},`)
	}
	doc.WriteString(`{}]}`)
	set := NewJSONSet("id", "type")
	out := make([]JSONValue, set.Len())
	body := []byte(doc.String())
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := set.Extract(body, out); err != nil {
			b.Fatal(err)
		}
	}
}
