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
