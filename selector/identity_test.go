package selector

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
)

func TestParse(t *testing.T) {
	for _, good := range []string{"header:X-Id", "query:data.id", "form:id", "json:a.b.0.c", "json:/a/b~1c", "path:account", "body:sha256"} {
		s, err := Parse(good)
		if err != nil || s.String() != good {
			t.Errorf("%s: %v, %v", good, s, err)
		}
	}
	for _, bad := range []string{"", "id", "header:", "header:a b", "header: X", "json:", "json:a..b", "json:/~2", "json:/a~", "json:a.", "header:X(Y)", "header:Ä", "body:md5", "cookie:x", "Header:X"} {
		if _, err := Parse(bad); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestIdentityOfARequest(t *testing.T) {
	long := strings.Repeat("x", MaxText)
	type want struct {
		text string
		err  error
	}
	const (
		multi = "Content-Type: multipart/form-data; boundary=b\r\n"
		part  = "--b\r\nContent-Disposition: form-data; name=id\r\n\r\n7\r\n"
	)
	tests := []struct {
		name, head, target, body string
		id                       Texts
		want                     want
	}{
		{"string", "", "", `{"id":"evt_1"}`, Texts{"json:id"}, want{"evt_1", nil}},
		{"integer", "", "", `{"id":9007199254740993}`, Texts{"json:id"}, want{"9007199254740993", nil}},
		{"negative integer", "", "", `{"id":-5}`, Texts{"json:id"}, want{"-5", nil}},
		{"the number 1.0", "", "", `{"id":1.0}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"an exponent", "", "", `{"id":1e3}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"a number of 256 digits", "", "", `{"id":` + strings.Repeat("9", MaxText+1) + `}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"a boolean", "", "", `{"id":true}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"an object", "", "", `{"id":{}}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"null", "", "", `{"id":null}`, Texts{"json:id"}, want{"", ErrAbsent}},
		{"absent", "", "", `{}`, Texts{"json:id"}, want{"", ErrAbsent}},
		{"empty", "", "", `{"id":""}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"twice", "", "", `{"id":"a","\u0069d":"b"}`, Texts{"json:id"}, want{"", ErrAmbiguous}},
		{"not JSON", "", "", `id=1`, Texts{"json:id"}, want{"", ErrAbsent}},
		{"255 bytes", "", "", `{"id":"` + long + `"}`, Texts{"json:id"}, want{long, nil}},
		{"256 bytes", "", "", `{"id":"` + long + `x"}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"a control character", "", "", `{"id":"a\u0000b"}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"a C1 control character", "", "", `{"id":"a\u0085b"}`, Texts{"json:id"}, want{"", ErrMalformed}},
		{"header", "X-Id:  abc \r\n", "", "", Texts{"header:x-id"}, want{"abc", nil}},
		{"two header lines", "X-Id: a\r\nx-ID: a\r\n", "", "", Texts{"header:X-Id"}, want{"", ErrAmbiguous}},
		{"an empty header", "X-Id:\r\n", "", "", Texts{"header:X-Id"}, want{"", ErrMalformed}},
		{"a header that is not UTF-8", "X-Id: \xff\r\n", "", "", Texts{"header:X-Id"}, want{"", ErrMalformed}},
		{"query", "", "/h?x=1&id=a%2Bb+c", "", Texts{"query:id"}, want{"a+b c", nil}},
		{"query twice", "", "/h?id=1&i%64=1", "", Texts{"query:id"}, want{"", ErrAmbiguous}},
		{"broken percent-encoding", "", "/h?id=%zz", "", Texts{"query:id"}, want{"", ErrMalformed}},
		{"an escape cut short", "", "/h?id=a%4", "", Texts{"query:id"}, want{"", ErrMalformed}},
		{"an escape with a last digit only", "", "/h?id=a%z4", "", Texts{"query:id"}, want{"", ErrMalformed}},
		{"an escape with one digit", "", "/h?id=%4z", "", Texts{"query:id"}, want{"", ErrMalformed}},
		{"a name that cannot be decoded", "", "/h?%zz=1&id=2", "", Texts{"query:id"}, want{"2", nil}},
		{"form", "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n", "", "id=7&b=2", Texts{"form:id"}, want{"7", nil}},
		{"form twice", "Content-Type: application/x-www-form-urlencoded\r\n", "", "id=7&id=7", Texts{"form:id"}, want{"", ErrAmbiguous}},
		{"no form", "Content-Type: application/json\r\n", "", "id=7", Texts{"form:id"}, want{"", ErrAbsent}},
		{"two lines with the type of an urlencoded form", "Content-Type: application/x-www-form-urlencoded\r\nContent-Type: text/plain\r\n", "", "id=7", Texts{"form:id"}, want{"", ErrAbsent}},
		{"parts that are no form", "Content-Type: multipart/mixed; boundary=b\r\n", "", part + "--b--", Texts{"form:id"}, want{"", ErrAbsent}},
		{"a form without a boundary", "Content-Type: multipart/form-data\r\n", "", part + "--b--", Texts{"form:id"}, want{"", ErrAbsent}},
		{"two lines with the type of a form", "Content-Type: multipart/form-data; boundary=b\r\nContent-Type: text/plain\r\n", "", part + "--b--", Texts{"form:id"}, want{"", ErrAbsent}},
		{"a short type", "Content-Type: x\r\n", "", part + "--b--", Texts{"form:id"}, want{"", ErrAbsent}},
		{"fields", multi, "", "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n" + part + "--b--", Texts{"form:id"}, want{"7", nil}},
		{"a field twice", multi, "", part + part + "--b--", Texts{"form:id"}, want{"", ErrAmbiguous}},
		{"fields cut short", multi, "", part, Texts{"form:id"}, want{"", ErrMalformed}},
		{"a file for a field", multi, "", strings.Replace(part, "name=id", "name=id; filename=f", 1) + "--b--", Texts{"form:id"}, want{"", ErrMalformed}},
		{"a field in another encoding", multi, "", strings.Replace(part, "\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1) + "--b--", Texts{"form:id"}, want{"", ErrMalformed}},
		{"path", "", "", "", Texts{"path:tenant"}, want{"acme", nil}},
		{"body", "", "", "abc", Texts{"body:sha256"}, want{"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", nil}},
		{"the first of two that are there", "", "", `{"a":"x","b":"y"}`, Texts{"json:a | json:b"}, want{"x", nil}},
		{"the second where the first is not", "", "", `{"b":"y"}`, Texts{"json:a | json:b"}, want{"y", nil}},
		{"the first is there, but malformed", "", "", `{"a":"","b":"y"}`, Texts{"json:a | json:b"}, want{"", ErrMalformed}},
		{"joined", "", "", `{"a":"x:y","b":7}`, Texts{"json:a", "json:b"}, want{"x%3Ay:7", nil}},
		{"joined and escaped", "", "", `{"a":"50% é","b":"z"}`, Texts{"json:a", "json:b"}, want{"50%25%20%C3%A9:z", nil}},
		{"joined, one absent", "", "", `{"a":"x"}`, Texts{"json:a", "json:b"}, want{"", ErrAbsent}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, err := CompileIdentity(IdentitySpec{ID: tt.id})
			if err != nil {
				t.Fatal(err)
			}
			target := tt.target
			if target == "" {
				target = "/hook"
			}
			v, err := id.Extract(&event.Request{Method: "POST", Target: []byte(target), Head: event.Head(tt.head), Body: []byte(tt.body)}, []Param{{"tenant", "acme"}})
			if v.ID.Text() != tt.want.text || !errors.Is(err, tt.want.err) || !errors.Is(v.ID.Err(), tt.want.err) {
				t.Errorf("%q, %v; want %q, %v", v.ID.Text(), err, tt.want.text, tt.want.err)
			}
			var fe *FieldError
			if tt.want.err != nil && (!errors.As(err, &fe) || fe.Field != "id") {
				t.Errorf("%v does not name the field", err)
			}
		})
	}
}

func TestPartsOfAJoinedIDAreNotConfused(t *testing.T) {
	id, _ := CompileIdentity(IdentitySpec{ID: Texts{"json:a", "json:b"}})
	read := func(body string) []string {
		v, _ := id.Extract(&event.Request{Target: []byte("/"), Body: []byte(body)}, nil)
		return v.ID.AppendParts(nil)
	}
	if diff := cmp.Diff([]string{"x:y", "z"}, read(`{"a":"x:y","b":"z"}`)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(read(`{"a":"x:y","b":"z"}`), read(`{"a":"x","b":"y:z"}`)) {
		t.Error("two identities are one")
	}
}

func TestOptionalFieldsDoNotFailARequest(t *testing.T) {
	id, err := CompileIdentity(IdentitySpec{ID: Texts{"json:id"}, Account: Texts{"json:account"}, Type: Texts{"json:type"}, Resource: Texts{"json:r"}, Version: Texts{"json:v"}, OccurredAt: Texts{"json:at"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := id.Extract(&event.Request{Target: []byte("/"), Body: []byte(`{"id":1,"v":1.5,"at":1760000000.25,"r":1.0}`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Type.Present() || !errors.Is(v.Type.Err(), ErrAbsent) || !errors.Is(v.Resource.Err(), ErrMalformed) || v.Version.Text() != "1.5" {
		t.Errorf("%+v", v)
	}
	if want := time.Unix(1760000000, 250000000).UTC(); !v.OccurredAt.Equal(want) {
		t.Errorf("occurred at %s, want %s", v.OccurredAt, want)
	}
	if _, err := id.Extract(&event.Request{Target: []byte("/"), Body: []byte(`{"id":1,"account":{}}`)}, nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("a malformed account: %v", err)
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"1760000000": "2025-10-09T08:53:20Z", "1760000000123": "2025-10-09T08:53:20.123Z", "1355517523.000005": "2012-12-14T20:38:43.000005Z",
		"100000000000": "1973-03-03T09:46:40Z", "100000000000.5": "1973-03-03T09:46:40.0005Z", "9100000000": "2258-05-15T01:46:40Z",
		"2025-10-09T08:53:20+02:00": "2025-10-09T06:53:20Z", "2025-10-09T08:53:20.5Z": "2025-10-09T08:53:20.5Z",
		"2016-11-18T10:46:28+0100": "2016-11-18T09:46:28Z", "2020-10-06 15:27:18 UTC": "2020-10-06T15:27:18Z",
		"0000-01-01T00:00:00Z": "0000-01-01T00:00:00Z", "9999-12-31T23:59:59+01:00": "9999-12-31T22:59:59Z",
	} {
		if got, ok := ParseTime(text); !ok || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%s: %s, want %s", text, got.Format(time.RFC3339Nano), want)
		}
	}
	for _, bad := range []string{"", "x", "1e9", "-1", "+1", "99999999999", "1.2.3", strings.Repeat("9", 32), ".", "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+14:00"} {
		if got, ok := ParseTime(bad); ok {
			t.Errorf("%q is %s", bad, got)
		}
	}
}

func TestPairs(t *testing.T) {
	var got []string
	for k, v := range Pairs([]byte("&a=1&&b&c=%20=&")) {
		got = append(got, string(k)+"="+string(v))
	}
	if diff := cmp.Diff([]string{"a=1", "b=", "c=%20="}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add([]byte("X-Id: a\r\n"), []byte("/p?id=1"), []byte(`{"id":"x"}`))
	ids := make([]*Identity, 0, 4)
	for _, s := range []string{"header:X-Id", "query:id", "json:id", "body:sha256"} {
		id, err := CompileIdentity(IdentitySpec{ID: Texts{s}})
		if err != nil {
			f.Fatal(err)
		}
		ids = append(ids, id)
	}
	f.Fuzz(func(t *testing.T, head, target, body []byte) {
		for _, id := range ids {
			v, err := id.Extract(&event.Request{Method: "POST", Target: target, Head: head, Body: body}, nil)
			if (err == nil) != v.ID.Present() {
				t.Fatalf("%v, but present=%v", err, v.ID.Present())
			}
			if _, bad := checkText(v.ID.Text()); err == nil && bad != nil {
				t.Fatalf("%q is out of bounds", v.ID.Text())
			}
		}
	})
}
