package event

import "strings"

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
