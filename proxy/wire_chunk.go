package proxy

// A chunker follows a chunked body byte by byte (RFC 9112 §7.1) and says where it ends, without keeping or changing anything:
// hexadecimal sizes of at most 16 digits, extensions without control characters, CRLF everywhere, trailer lines as strict as header
// lines. The zero value with max set is ready.
type chunker struct {
	max   int64 // bytes of body
	total int64 // bytes of body so far, announced chunks included

	state  chunkState
	digits int
	size   int64
	left   int64 // of the chunk's data
	ext    int   // bytes of extensions so far
	tail   int   // bytes of the trailer section so far
	fields int

	sink *[]byte // where the body goes; nil = nowhere
}

type chunkState uint8

const (
	chunkSize      chunkState = iota // at or in the size
	chunkExt                         // after ';'
	chunkSizeLF                      // LF after the size line
	chunkData                        // left bytes of data
	chunkDataCR                      // CR after the data
	chunkDataLF                      // LF after the data
	chunkTrailer                     // begin of a trailer line, or of the empty line
	chunkTrailName                   // in a trailer's name
	chunkTrailText                   // in a trailer's value
	chunkTrailLF                     // LF after a trailer line
	chunkEndLF                       // LF that ends the message
)

// feed reads on in b. n is how many of its bytes belong to the message; done says that the message ends there.
func (k *chunker) feed(b []byte) (n int, done bool, f *wireFault) {
	for n < len(b) {
		if k.state == chunkData {
			step := int(min(k.left, int64(len(b)-n)))
			if k.sink != nil {
				*k.sink = append(grow(*k.sink, step, k.max), b[n:n+step]...)
			}
			n += step
			if k.left -= int64(step); k.left == 0 {
				k.state = chunkDataCR
			}
			continue
		}
		c := b[n]
		n++
		if k.state >= chunkTrailer {
			done, f = k.trailer(c)
		} else {
			f = k.frame(c)
		}
		if f != nil || done {
			return n, done, f
		}
	}
	return n, false, nil
}

// frame takes one byte outside of data and trailers.
func (k *chunker) frame(c byte) *wireFault {
	switch k.state {
	case chunkSize:
		return k.sizeByte(c)
	case chunkExt:
		if k.ext++; k.ext > MaxHead {
			return faultChunk
		}
		if c == '\r' {
			k.state = chunkSizeLF
		} else if class[c]&isValue == 0 {
			return faultChunk
		}
		return nil
	case chunkSizeLF:
		return k.sizeDone(c)
	case chunkDataCR:
		k.state = chunkDataLF
		return must(c == '\r')
	default: // chunkDataLF
		k.state = chunkSize
		return must(c == '\n')
	}
}

func (k *chunker) sizeByte(c byte) *wireFault {
	v := int64(-1)
	switch {
	case c >= '0' && c <= '9':
		v = int64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		v = int64(c|0x20-'a') + 10
	case k.digits == 0:
		return faultChunk
	case c == ';':
		k.state = chunkExt
		return nil
	case c == '\r':
		k.state = chunkSizeLF
		return nil
	default:
		return faultChunk
	}
	if k.digits++; k.digits > 16 {
		return faultChunk
	}
	if k.size = k.size<<4 | v; k.size > 1<<55 {
		k.size = 1 << 55 // above every limit; more digits must not wrap it
	}
	return nil
}

func (k *chunker) sizeDone(c byte) *wireFault {
	if c != '\n' {
		return faultChunk
	}
	if k.size > k.max-k.total {
		return faultTooLarge
	}
	k.total += k.size
	k.left = k.size
	k.state = chunkData
	if k.size == 0 {
		k.state = chunkTrailer
	}
	k.digits, k.size = 0, 0
	return nil
}

// trailer takes one byte of the trailer section, which is checked and dropped (RFC 9110 §6.5.1).
func (k *chunker) trailer(c byte) (done bool, f *wireFault) {
	if k.tail++; k.tail > MaxHead {
		return false, faultHeadSize
	}
	switch k.state {
	case chunkTrailer:
		if c == '\r' {
			k.state = chunkEndLF
			return false, nil
		}
		if k.fields++; k.fields > MaxFields {
			return false, faultHeadSize
		}
		k.state = chunkTrailName
		return false, must(class[c]&isToken != 0)
	case chunkTrailName:
		if c == ':' {
			k.state = chunkTrailText
			return false, nil
		}
		return false, must(class[c]&isToken != 0)
	case chunkTrailText:
		if c == '\r' {
			k.state = chunkTrailLF
			return false, nil
		}
		return false, must(class[c]&isValue != 0)
	case chunkTrailLF:
		k.state = chunkTrailer
		return false, must(c == '\n')
	default: // chunkEndLF
		return c == '\n', must(c == '\n')
	}
}

func must(ok bool) *wireFault {
	if ok {
		return nil
	}
	return faultChunk
}
