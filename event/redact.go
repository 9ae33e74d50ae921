package event

import (
	"net/url"
	"strings"
)

// Redacted stands in place of a header's value that is not shown.
const Redacted = "[redacted]"

// Credentials are the headers that carry credentials of the sender rather than a signature of the request: whoever reads their value can
// forge requests, or act as somebody else. The journal keeps them, since retries must send what came in; what shows a payload does not.
var Credentials = [...]string{"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Gitlab-Token", "X-Telegram-Bot-Api-Secret-Token",
	"CF-Webhook-Auth", "DG-Token", "Verif-Hash", "X-AdobeSign-ClientId", "X-Callback-Token", "X-Goog-Channel-Token", "X-Secret"} // of the presets, for who has no configuration

// Credential says whether a header carries credentials.
func Credential(name string) bool {
	for _, c := range Credentials {
		if strings.EqualFold(c, name) {
			return true
		}
	}
	return false
}

// RedactQuery is the target of a request without the values of parameters of its query that carry credentials: hide is asked for "?name".
func RedactQuery(target string, hide func(name string) bool) string {
	path, query, _ := strings.Cut(target, "?")
	fields := strings.Split(query, "&")
	for i, f := range fields {
		name, _, valued := strings.Cut(f, "=")
		if plain, err := url.QueryUnescape(name); valued && err == nil && hide("?"+plain) {
			fields[i] = name + "=" + Redacted
		}
	}
	return path + target[len(path):len(target)-len(query)] + strings.Join(fields, "&")
}
