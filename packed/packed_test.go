package packed

import (
	"bytes"
	"testing"
)

func TestUnpackGivesWhatWasPacked(t *testing.T) {
	for _, text := range []string{"", "a", string(bytes.Repeat([]byte("key: value\n"), 10_000))} {
		b, err := Pack([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Unpack(b); err != nil || string(got) != text || string(Embedded(b)) != text {
			t.Errorf("%d bytes came back as %d, %v", len(text), len(got), err)
		}
		if _, err := Unpack(b[:len(b)-4]); err == nil {
			t.Error("a packed text without its end unpacks")
		}
	}
}
