package client

import (
	"context"
	"errors"

	"github.com/hooktender/hooktender/admin/api"
)

// StartReplay begins a replay of many, or, with DryRun, only counts.
func (c *Client) StartReplay(ctx context.Context, spec api.ReplaySpec) (api.Replay, error) {
	var out api.Replay
	err := c.post(ctx, "/v1/replays", nil, spec, &out)
	return out, err
}

// Replays lists the newest replays, at most 100.
func (c *Client) Replays(ctx context.Context) ([]api.Replay, error) {
	var out api.Page[api.Replay]
	err := c.get(ctx, "/v1/replays", nil, &out)
	return out.Data, err
}

// ReplayStatus reads one replay.
func (c *Client) ReplayStatus(ctx context.Context, id string) (api.Replay, error) {
	var out api.Replay
	err := c.get(ctx, "/v1/replays/"+escape(id), nil, &out)
	return out, err
}

// CancelReplay stops a replay; events that it has started run on.
func (c *Client) CancelReplay(ctx context.Context, id, reason string) (api.Replay, error) {
	var out api.Replay
	err := c.post(ctx, "/v1/replays/"+escape(id)+"/cancel", nil, api.Because{Reason: reason}, &out)
	return out, err
}

// Checkpoints says how far each source has come, or one if source is not empty.
func (c *Client) Checkpoints(ctx context.Context, source string) ([]api.Checkpoint, error) {
	var out api.Page[api.Checkpoint]
	err := c.get(ctx, "/v1/checkpoints", inSource(source), &out)
	return out.Data, err
}

// Resource says how far the consumer has come with one resource.
func (c *Client) Resource(ctx context.Context, source, resource string) (api.Resource, error) {
	var out api.Resource
	err := c.get(ctx, "/v1/resources/"+escape(source)+"/"+escape(resource), nil, &out)
	return out, err
}

// SetCursor puts the cursor of a resource at a version, up or down: what is not newer is stale from then on. An empty version forgets the
// cursor, as if nothing had been delivered yet.
func (c *Client) SetCursor(ctx context.Context, source, resource, version, reason string) (api.Resource, error) {
	in := api.SetCursor{Version: api.Text(version), Reason: reason}
	var out api.Resource
	err := c.post(ctx, "/v1/resources/"+escape(source)+"/"+escape(resource)+"/cursor", nil, in, &out)
	return out, err
}

// Sources lists the configured sources.
func (c *Client) Sources(ctx context.Context) ([]api.Source, error) {
	var out api.Page[api.Source]
	err := c.get(ctx, "/v1/sources", nil, &out)
	return out.Data, err
}

// Pause stops the deliveries of a source; events keep being accepted. It survives a restart.
func (c *Client) Pause(ctx context.Context, source, reason string) (api.Source, error) {
	var out api.Source
	err := c.post(ctx, "/v1/sources/"+escape(source)+"/pause", nil, api.Because{Reason: reason}, &out)
	return out, err
}

// Resume undoes Pause.
func (c *Client) Resume(ctx context.Context, source, reason string) (api.Source, error) {
	var out api.Source
	err := c.post(ctx, "/v1/sources/"+escape(source)+"/resume", nil, api.Because{Reason: reason}, &out)
	return out, err
}

// Enroll opens a window in which a source takes the secret that its sender delivers in its first request; the zero request means ten
// minutes.
func (c *Client) Enroll(ctx context.Context, source string, r api.EnrollRequest) (api.Enrolment, error) {
	var out api.Enrolment
	err := c.post(ctx, "/v1/sources/"+escape(source)+"/enroll", nil, r, &out)
	return out, err
}

// Upstreams lists the upstreams with their breakers.
func (c *Client) Upstreams(ctx context.Context) ([]api.Upstream, error) {
	var out api.Page[api.Upstream]
	err := c.get(ctx, "/v1/upstreams", nil, &out)
	return out.Data, err
}

// Whoami says who the caller is to the gateway, and what they may do.
func (c *Client) Whoami(ctx context.Context) (api.Whoami, error) {
	var out api.Whoami
	err := c.get(ctx, "/v1/whoami", nil, &out)
	return out, err
}

// Reload makes the gateway read its configuration again. A *Problem with Errors says what is wrong with it; the old one stays.
func (c *Client) Reload(ctx context.Context, reason string) (api.Reloaded, error) {
	var out api.Reloaded
	err := c.post(ctx, "/v1/config/reload", nil, api.Because{Reason: reason}, &out)
	return out, err
}

// Drain makes the gateway refuse new events from now on. It is final.
func (c *Client) Drain(ctx context.Context, reason string) (api.Draining, error) {
	var out api.Draining
	err := c.post(ctx, "/v1/drain", nil, api.Because{Reason: reason}, &out)
	return out, err
}

// Ready returns nil if the gateway takes events, and a *Problem that says why if not.
func (c *Client) Ready(ctx context.Context) error {
	var out api.Health
	if err := c.get(ctx, "/readyz", nil, &out); err != nil || out.Status == "ready" {
		return err
	}
	return errors.New("the answer is not hooktender's: is this its admin port?")
}
