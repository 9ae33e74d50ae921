package admin

import (
	"context"
	"net/http"
	"runtime"
	"slices"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

func (s *Server) listEvents(c *call) error {
	v, err := c.query(listParams...)
	if err != nil {
		return err
	}
	q, err := listQuery(v)
	if err != nil {
		return err
	}
	ctx, cancel := c.listing()
	defer cancel()
	if err := s.checkSource(ctx, q.Source); err != nil {
		return err
	}
	page, err := s.list(ctx, q)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, page)
}

// checkSource returns recovery.ErrUnknownSource for a name that neither is configured nor has records.
func (s *Server) checkSource(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if slices.Contains(s.Core.Names(), name) {
		return nil
	}
	counts, err := s.Journal.Counts(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(counts, func(c journal.Count) bool { return c.Source == name && c.N > 0 }) {
		return nil
	}
	return recovery.ErrUnknownSource
}

// maxPages bounds the journal pages that one call reads for a filter on a derived reason; then it answers with what it has and a cursor.
const maxPages = 20

// list reads one page of records as they are shown. A reason may be derived when a record is read: such a filter reads what may have
// it, and keeps what does. Each journal page asks for no more than is still wanted, so that its cursor is the page's own.
func (s *Server) list(ctx context.Context, q journal.Query) (api.Page[api.Event], error) {
	out := api.Page[api.Event]{Data: []api.Event{}}
	wanted := q.Reasons
	if slices.Contains(q.Reasons, event.BreakerOpen) {
		q.Reasons = append(slices.Clone(q.Reasons), event.Queued, event.Retrying)
	}
	limit := q.Limit
	for range maxPages {
		q.Limit = limit - len(out.Data)
		page, err := s.Journal.List(ctx, q)
		if err != nil {
			return out, err
		}
		for i := range page.Records {
			runtime.Gosched() // as in a stream: deliveries go first
			e := s.show(&page.Records[i])
			if len(wanted) == 0 || slices.Contains(wanted, page.Records[i].Reason) {
				out.Data = append(out.Data, e)
			}
		}
		q.Cursor = page.Next
		if q.Cursor == "" || len(out.Data) >= limit {
			break
		}
	}
	out.NextCursor = api.Text(q.Cursor)
	return out, nil
}
