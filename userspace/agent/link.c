// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * link: see link.h.
 */
#include "link.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "ship.h"
#include "util.h"

#define LINK_BACKOFF_MIN_MS 500u
#define LINK_BACKOFF_MAX_MS 10000u
#define LINK_HELLO_MS 15000u

static void link_drop(struct link *link)
{
	struct conn *conn = link->conn;

	link->conn = NULL;
	link->up_since_ms = 0;
	epoch_abandon(link->agent);
	if (conn)
		conn_close(conn);
}

static void link_timer(struct link *link, uint64_t ms)
{
	sd_event_source_set_time_relative(link->timer, ms * 1000);
	sd_event_source_set_enabled(link->timer, SD_EVENT_ONESHOT);
}

/* Down, with the reason in link->problem. */
static void link_down(struct link *link)
{
	link_drop(link);
	if (link->state == LINK_STOPPED)
		return;
	link->state = LINK_DOWN;
	link_timer(link, link->backoff_ms);
	link->backoff_ms *= 2;
	if (link->backoff_ms > LINK_BACKOFF_MAX_MS)
		link->backoff_ms = LINK_BACKOFF_MAX_MS;
}

static void link_hello(struct link *link)
{
	struct agent *agent = link->agent;
	CLEANUP_JSON json_t *hello = NULL;
	CLEANUP_FREE char *text = NULL;
	struct wire_frame frame = { .type = WIRE_HELLO };
	uint64_t committed = 0;
	json_t *disks = json_array();

	for (size_t i = 0; i < agent->disk_count; i++) {
		const struct agent_disk *disk = &agent->disks[i];

		if (!disk->active)
			continue;
		/* While everything is dirty nothing has been forgotten. */
		if (!agent->holds_all && disk->info.epoch_committed > committed)
			committed = disk->info.epoch_committed;
		json_array_append_new(disks, json_pack("{s:I, s:s, s:I, s:I}", "id",
						       (json_int_t)disk->id, "name", disk->name,
						       "size_bytes", (json_int_t)disk->info.size_bytes,
						       "granule_bytes",
						       (json_int_t)disk->granule_bytes));
	}
	hello = json_pack("{s:s, s:s, s:s, s:s, s:o, s:I}", "program", "reprotect-agent", "version",
			  REPROTECT_VERSION, "machine", agent->machine, "host", agent->host, "disks",
			  disks, "committed", (json_int_t)committed);
	text = hello ? json_dumps(hello, JSON_COMPACT) : NULL;
	if (!text) {
		agent_problem_set(&link->problem, NULL, "out of memory");
		link_down(link);
		return;
	}
	frame.payload_bytes = (uint32_t)strlen(text);
	if (conn_send(link->conn, &frame, false, text, NULL, NULL) < 0)
		return; /* its end is reported */
	link->state = LINK_HELLO;
	link_timer(link, LINK_HELLO_MS);
}

static void on_connected(struct conn *conn, void *user)
{
	(void)conn;
	link_hello(user);
}

static json_t *frame_json(const struct wire_frame *frame, const void *payload)
{
	return frame->payload_bytes ? json_loadb(payload, frame->payload_bytes, 0, NULL) : NULL;
}

static uint64_t json_u64(const json_t *json, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(json, key));

	return value > 0 ? (uint64_t)value : 0;
}

static void copy_text(char *out, size_t bytes, const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	snprintf(out, bytes, "%s", text ? text : "?");
}

/* The targets are somebody else's now: nothing may be sent until a person says so. */
static void link_released(struct link *link, const char *message, const char *remedy)
{
	struct agent *agent = link->agent;

	failback_epoch_failed(agent, message, remedy);
	agent->released = true;
	agent_problem_set(&agent->released_problem,
			  "if this machine is to be protected again: on the master target reprotect target "
			  "forget MACHINE, then here reprotect resume",
			  "this machine has been failed back: its target disks are released (%s)",
			  message);
	state_failback_set(agent, STATE_FAILBACK_DONE);
	link_stop(link);
}

static int on_hello_ack(struct link *link, const json_t *json)
{
	struct agent *agent = link->agent;
	const char *status;

	if (link->state != LINK_HELLO || !json_is_object(json))
		return -EPROTO;
	status = json_string_value(json_object_get(json, "status"));
	if (status && !strcmp(status, "released")) {
		link_released(link, "said in answer to HELLO", NULL);
		return 0;
	}
	copy_text(link->peer_program, sizeof(link->peer_program), json, "program");
	copy_text(link->peer_version, sizeof(link->peer_version), json, "version");
	link->max_epoch_bytes = json_u64(json, "max_epoch_bytes");
	link->state = LINK_UP;
	link->up_since_ms = util_wall_ms();
	sd_event_source_set_enabled(link->timer, SD_EVENT_OFF);
	log_info("process server %s: connected (%s %s)", conn_peer(link->conn), link->peer_program,
		 link->peer_version);
	epoch_chain_check(agent, json_u64(json, "last_complete"), json_u64(json, "last_applied"),
			  json_u64(json, "max_epoch"));
	agent_schedule(agent, 0);
	return 0;
}

static int on_error(struct link *link, const struct wire_frame *frame, const json_t *json)
{
	struct agent *agent = link->agent;
	const char *code = json_string_value(json_object_get(json, "code"));
	const char *message = json_string_value(json_object_get(json, "message"));
	const char *remedy = json_string_value(json_object_get(json, "remedy"));
	bool fatal = json_is_true(json_object_get(json, "fatal"));

	code = code ? code : "unknown";
	message = message ? message : "no message";
	agent_problem_set(&link->problem, remedy, "process server %s: %s: %s",
			  agent->config.process_server, code, message);
	if (!strcmp(code, "released")) {
		link_released(link, message, remedy);
		return 0;
	}
	/*
	 * What is only out of reach for now comes back by itself: the epoch stays open, its
	 * acknowledgement follows. Anything else ends the attempt.
	 */
	if (!fatal && !strcmp(code, "downstream-unreachable"))
		return 0;
	epoch_fail(agent, remedy, "%s: %s", code, message);
	if (!strcmp(code, "resync-needed"))
		agent_resync(agent, message);
	(void)frame;
	link_down(link);
	return 0;
}

static int on_frame(struct conn *conn, const struct wire_frame *frame, void *payload, void *user)
{
	struct link *link = user;
	CLEANUP_JSON json_t *json = frame_json(frame, payload);

	if (conn != link->conn)
		return 0;
	switch (frame->type) {
	case WIRE_HELLO_ACK:
		return on_hello_ack(link, json);
	case WIRE_ACK:
		if (link->state == LINK_UP) {
			if (frame->flags & (WIRE_ACK_SPOOLED | WIRE_ACK_APPLIED))
				link->backoff_ms = LINK_BACKOFF_MIN_MS;
			if (frame->flags & WIRE_ACK_APPLIED)
				agent_problem_clear(&link->problem);
			epoch_ack(link->agent, frame, json);
		}
		return 0;
	case WIRE_ERROR:
		return on_error(link, frame, json);
	default:
		log_warning("process server %s: unexpected frame %s ignored", conn_peer(conn),
			    wire_type_name(frame->type));
		return -EPROTO;
	}
}

static void on_writable(struct conn *conn, void *user)
{
	struct link *link = user;

	(void)conn;
	ship_writable(link->agent->ship);
}

static void on_closed(struct conn *conn, int error, const char *why, void *user)
{
	struct link *link = user;

	if (conn != link->conn) {
		return;
	}
	/* An ERROR frame said more than the end of the connection that follows it. */
	if (error || !link->problem.text[0])
		agent_problem_set(&link->problem,
				  "check that the process server runs (systemctl status "
				  "reprotect-process-server) and can be reached; the agent keeps trying",
				  "process server %s: %s", link->agent->config.process_server,
				  why && *why ? why : strerror(-error));
	epoch_fail(link->agent, link->problem.remedy, "%s", link->problem.text);
	link_down(link);
}

static const struct conn_ops link_conn_ops = {
	.connected = on_connected,
	.frame = on_frame,
	.writable = on_writable,
	.closed = on_closed,
};

static void link_connect(struct link *link)
{
	int rc;

	if (!agent_active(link->agent)) {
		link->state = LINK_DOWN; /* started again when there is a disk */
		return;
	}
	link->state = LINK_CONNECTING;
	link->reconnects++;
	rc = conn_connect(&link->conn, link->agent->event, &transport_tcp,
			  link->agent->config.process_server, &link_conn_ops, link);
	if (rc < 0) {
		link->conn = NULL;
		agent_problem_set(&link->problem,
				  "check process_server in the configuration: host:port",
				  "process server %s: cannot connect: %s",
				  link->agent->config.process_server, strerror(-rc));
		link_down(link);
	}
}

static int on_timer(sd_event_source *source, uint64_t usec, void *user)
{
	struct link *link = user;

	(void)source;
	(void)usec;
	if (link->state == LINK_DOWN) {
		link_connect(link);
	} else if (link->state == LINK_HELLO) {
		agent_problem_set(&link->problem, "see the log of the process server",
				  "process server %s: no answer to HELLO within %u s",
				  link->agent->config.process_server, LINK_HELLO_MS / 1000);
		link_down(link);
	}
	return 0;
}

void link_start(struct link *link)
{
	if (link->state != LINK_STOPPED && link->state != LINK_DOWN)
		return;
	link->state = LINK_DOWN;
	link_timer(link, 0);
}

void link_stop(struct link *link)
{
	sd_event_source_set_enabled(link->timer, SD_EVENT_OFF);
	link->state = LINK_STOPPED;
	link_drop(link);
}

void link_again(struct link *link, bool now)
{
	if (link->state == LINK_STOPPED)
		return;
	link_down(link);
	if (now)
		link_timer(link, 0);
}

const char *link_state_name(const struct link *link)
{
	static const char *const names[] = { "stopped", "down", "connecting", "hello", "up" };

	return names[link->state];
}

int link_new(struct link **out, struct agent *agent)
{
	struct link *link = calloc(1, sizeof(*link));
	int rc;

	if (!link)
		return -ENOMEM;
	link->agent = agent;
	link->backoff_ms = LINK_BACKOFF_MIN_MS;
	rc = sd_event_add_time_relative(agent->event, &link->timer, CLOCK_BOOTTIME, 0, 1000, on_timer,
					link);
	if (rc < 0) {
		free(link);
		return rc;
	}
	sd_event_source_set_enabled(link->timer, SD_EVENT_OFF);
	*out = link;
	return 0;
}

void link_free(struct link *link)
{
	if (!link)
		return;
	link_stop(link);
	sd_event_source_disable_unref(link->timer);
	free(link);
}
