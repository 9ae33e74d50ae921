package journal

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/hooktender/hooktender/event"
)

// CursorAfter is the cursor of a page that begins after seq: above it in an ascending list, below it in a descending one.
func CursorAfter(seq event.Seq) string {
	b := binary.BigEndian.AppendUint64([]byte{1}, uint64(seq))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor is the inverse of CursorAfter. It returns ErrBadCursor for anything else.
func ParseCursor(s string) (event.Seq, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 13 || b[0] != 1 || binary.BigEndian.Uint32(b[9:]) != crc32.ChecksumIEEE(b[:9]) {
		return 0, ErrBadCursor
	}
	return event.Seq(binary.BigEndian.Uint64(b[1:9])), nil
}
