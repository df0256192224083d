/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conn: frames over a transport, on an sd-event loop. Called by every daemon. Promises: an
 * owner sees whole frames with good checksums only; memory is bounded by the send bound and one
 * receive buffer; a dead peer is noticed within CONN_DEAD_MS; nothing blocks.
 *
 *	state		what happens			goes to
 *	CONNECTING	waits for the transport		OPEN, OVER
 *	ACCEPTED	has no owner yet		OPEN, CLOSED
 *	OPEN		frames both ways		FINISHING, OVER, CLOSED
 *	FINISHING	writes what is queued,		DRAINING, CLOSED
 *			throws away what comes
 *	DRAINING	all is written: waits for the	CLOSED
 *			peer's end, so that the kernel
 *			does not reset what is on its way
 *	OVER		@closed was called		CLOSED
 *	CLOSED		freed when no callback of it
 *			is running any more
 *
 * Who is alive: any byte that arrives is a sign of life. Whoever has written nothing for
 * CONN_PING_MS writes a PING, also while it is paused; so a paused peer, whose window is shut, is
 * slow and not dead, and silence is death. Only who is paused itself, and so hears
 * nothing, judges by whether its own bytes are taken.
 */
#include "conn_internal.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>

/* The end of a connection. */

static void let_go_transport(struct conn *conn)
{
	conn->io = sd_event_source_disable_unref(conn->io);
	conn->tick = sd_event_source_disable_unref(conn->tick);
	conn->kick = sd_event_source_disable_unref(conn->kick);
	if (conn->stream)
		conn->transport->close(conn->stream);
	conn->stream = NULL;
}

void conn_leave(struct conn *conn)
{
	if (--conn->busy || conn->state != CONN_CLOSED)
		return;
	sd_event_unref(conn->event);
	free(conn->own);
	free(conn->rx);
	free(conn);
}

void conn_close(struct conn *conn)
{
	if (!conn || conn->state == CONN_CLOSED)
		return;
	conn->busy++;
	conn->state = CONN_CLOSED;
	let_go_transport(conn);
	conn_release_all(conn);
	conn_leave(conn);
}

void conn_over(struct conn *conn, int error, const char *format, ...)
{
	char why[256];
	va_list arguments;

	switch (conn->state) {
	case CONN_OVER:
	case CONN_CLOSED:
		return;
	case CONN_ACCEPTED:
	case CONN_FINISHING:
	case CONN_DRAINING:
		conn_close(conn); /* nobody to tell */
		return;
	case CONN_CONNECTING:
	case CONN_OPEN:
		break;
	}
	va_start(arguments, format);
	vsnprintf(why, sizeof(why), format, arguments);
	va_end(arguments);
	conn->state = CONN_OVER;
	let_go_transport(conn);
	conn->ops->closed(conn, error, why, conn->user);
}

/* What the io source waits for. */
static void update_events(struct conn *conn)
{
	uint32_t events = 0;
	int error;

	if (!conn->io)
		return;
	if (conn->state == CONN_CONNECTING)
		events |= EPOLLOUT;
	if (conn->state == CONN_OPEN && !conn->paused && !conn->payload_wait)
		events |= EPOLLIN;
	if (conn->state == CONN_FINISHING || conn->state == CONN_DRAINING)
		events |= EPOLLIN;
	if (conn->blocked && conn->tx_first)
		events |= EPOLLOUT;
	if (conn->transport->wants) {
		unsigned wants = conn->transport->wants(conn->stream);

		events |= (wants & POLLIN ? EPOLLIN : 0u) | (wants & POLLOUT ? EPOLLOUT : 0u);
	}
	if (events == conn->events)
		return;
	error = sd_event_source_set_io_events(conn->io, events);
	if (error < 0) {
		conn_over(conn, error, "cannot wait for the connection: %s", strerror(-error));
		return;
	}
	conn->events = events;
}

void conn_kick(struct conn *conn)
{
	int error;

	if (!conn->kick)
		return;
	error = sd_event_source_set_enabled(conn->kick, SD_EVENT_ONESHOT);
	if (error < 0) /* only a source of another process is refused */
		log_error("connection to %s: cannot schedule: %s", conn->peer, strerror(-error));
}

/* The loop. */

/* What a turn of the loop does for an open connection. */
static void turn(struct conn *conn)
{
	if (conn->state == CONN_OPEN)
		conn_receive(conn);
	else if (conn->state == CONN_FINISHING || conn->state == CONN_DRAINING)
		conn_discard(conn);
	conn_flush(conn);
	update_events(conn);
}

static void check_connected(struct conn *conn)
{
	int error = conn->transport->connected(conn->stream);

	if (error == -EAGAIN)
		return;
	if (error) {
		conn_over(conn, error, "cannot connect to %s: %s", conn->peer, strerror(-error));
		return;
	}
	conn->state = CONN_OPEN;
	conn->heard_ms = conn->wrote_ms = util_now_ms();
	if (conn->ops->connected)
		conn->ops->connected(conn, conn->user);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct conn *conn = user;

	(void)source;
	(void)fd;
	conn->busy++;
	if (conn->state == CONN_CONNECTING)
		check_connected(conn);
	if (revents & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		conn->blocked = false;
	/*
	 * A broken connection is reported over and over. Who is paused does not read and would
	 * spin; what is unread is of an epoch that will be sent again.
	 */
	if (conn->state == CONN_OPEN && !conn_reading(conn) && (revents & (EPOLLERR | EPOLLHUP)))
		conn_over(conn, -ECONNRESET, "the connection broke while it was paused");
	turn(conn);
	conn_leave(conn);
	return 0;
}

static int on_kick(sd_event_source *source, void *user)
{
	struct conn *conn = user;

	(void)source;
	conn->busy++;
	if (conn->state == CONN_OPEN && (conn->have_frame || conn->rx_head != conn->rx_tail))
		conn_parse(conn);
	conn_flush(conn);
	update_events(conn);
	conn_leave(conn);
	return 0;
}

static void send_ping(struct conn *conn, uint64_t now)
{
	struct wire_frame frame = { .type = WIRE_PING };
	bool silent = conn_reading(conn) && now - conn->heard_ms >= conn->ping_ms;
	int error;

	if (conn->ping_queued || now - conn->pinged_ms < conn->ping_ms ||
	    (!silent && now - conn->wrote_ms < conn->ping_ms))
		return;
	error = conn_queue(conn, &frame, true, NULL, NULL, NULL);
	if (error) {
		log_warning("connection to %s: cannot send a PING: %s", conn->peer,
			    strerror(-error));
		return;
	}
	conn->ping_queued = true;
	conn->pinged_ms = now;
}

static void check_deadlines(struct conn *conn)
{
	uint64_t now = util_now_ms();

	switch (conn->state) {
	case CONN_CONNECTING:
		if (now - conn->since_ms >= CONN_CONNECT_MS)
			conn_over(conn, -ETIMEDOUT, "cannot connect to %s: no answer within %u s",
				  conn->peer, CONN_CONNECT_MS / 1000);
		return;
	case CONN_FINISHING:
	case CONN_DRAINING:
		if (now - conn->since_ms >= conn->dead_ms)
			conn_close(conn);
		return;
	case CONN_OPEN:
		break;
	case CONN_ACCEPTED:
	case CONN_OVER:
	case CONN_CLOSED:
		return;
	}
	/* The loop may have been away for long: first look whether something waits. */
	if (now - conn->heard_ms >= conn->dead_ms || now - conn->wrote_ms >= conn->dead_ms) {
		conn->blocked = false;
		turn(conn);
		if (conn->state != CONN_OPEN)
			return;
		now = util_now_ms();
	}
	if (conn_reading(conn) && now - conn->heard_ms >= conn->dead_ms)
		conn_over(conn, -ETIMEDOUT,
			  "nothing was heard for %" PRIu64 " ms: the peer or the way to "
			  "it is dead",
			  now - conn->heard_ms);
	else if (!conn_reading(conn) && conn->tx_first && now - conn->wrote_ms >= conn->dead_ms)
		conn_over(conn, -ETIMEDOUT,
			  "nothing could be sent for %" PRIu64 " ms: the peer or the way "
			  "to it is dead",
			  now - conn->wrote_ms);
	else
		send_ping(conn, now);
}

static uint64_t tick_us(const struct conn *conn)
{
	uint64_t us = conn->ping_ms * 1000 / 6;

	return us < 1000 ? 1000 : us;
}

static int on_tick(sd_event_source *source, uint64_t usec, void *user)
{
	struct conn *conn = user;
	int error;

	(void)usec;
	conn->busy++;
	check_deadlines(conn);
	if (conn->tick) {
		error = sd_event_source_set_time_relative(source, tick_us(conn));
		if (error >= 0)
			error = sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
		if (error < 0)
			conn_over(conn, error, "cannot set its timer: %s", strerror(-error));
	}
	conn_leave(conn);
	return 0;
}

/* The beginning. */

int conn_new(struct conn **out, sd_event *event, const struct transport_ops *transport,
		    struct transport *stream, enum conn_state state)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	uint64_t now = util_now_ms();
	int error;

	if (!conn) {
		transport->close(stream);
		return -ENOMEM;
	}
	*conn = (struct conn){
		.state = state,
		.event = sd_event_ref(event),
		.transport = transport,
		.stream = stream,
		.ping_ms = CONN_PING_MS,
		.dead_ms = CONN_DEAD_MS,
		.since_ms = now,
		.heard_ms = now,
		.wrote_ms = now,
		.rx = malloc(CONN_RX_BYTES),
	};
	snprintf(conn->peer, sizeof(conn->peer), "%s", transport->name(stream));
	error = conn->rx ? 0 : -ENOMEM;
	if (error >= 0)
		error = sd_event_add_defer(event, &conn->kick, on_kick, conn);
	if (error >= 0)
		error = sd_event_source_set_enabled(conn->kick, SD_EVENT_OFF);
	if (error >= 0)
		error = sd_event_add_time_relative(event, &conn->tick, CLOCK_BOOTTIME,
						   tick_us(conn), 10000, on_tick, conn);
	if (error >= 0)
		error = sd_event_add_io(event, &conn->io, transport->fd(stream), 0, on_io, conn);
	if (error < 0) {
		conn_close(conn);
		return error;
	}
	*out = conn;
	return 0;
}

int conn_connect(struct conn **conn, sd_event *event, const struct transport_ops *transport,
		 const char *address, const struct conn_ops *ops, void *user)
{
	struct transport *stream;
	int error = transport->connect(address, &stream);

	if (error)
		return error;
	error = conn_new(conn, event, transport, stream, CONN_CONNECTING);
	if (error)
		return error;
	(*conn)->ops = ops;
	(*conn)->user = user;
	update_events(*conn);
	return 0;
}

void conn_start(struct conn *conn, const struct conn_ops *ops, void *user)
{
	if (conn->state != CONN_ACCEPTED)
		return;
	conn->ops = ops;
	conn->user = user;
	conn->state = CONN_OPEN;
	conn_kick(conn); /* which then waits for the transport: no callback from in here */
}

void conn_set_deadlines(struct conn *conn, unsigned ping_ms, unsigned dead_ms)
{
	conn->ping_ms = ping_ms;
	conn->dead_ms = dead_ms;
	if (conn->tick && sd_event_source_set_time_relative(conn->tick, tick_us(conn)) < 0)
		log_error("connection to %s: cannot set its timer", conn->peer);
}

void conn_finish(struct conn *conn)
{
	if (conn->state != CONN_OPEN) {
		if (conn->state != CONN_FINISHING && conn->state != CONN_DRAINING)
			conn_close(conn);
		return;
	}
	conn->state = CONN_FINISHING;
	conn->since_ms = util_now_ms();
	conn_kick(conn);
}

void conn_pause(struct conn *conn)
{
	conn->paused = true;
}

void conn_resume(struct conn *conn)
{
	if (!conn->paused && !conn->payload_wait)
		return;
	conn->paused = false;
	conn->payload_wait = false;
	conn->heard_ms = util_now_ms(); /* silence counts from now */
	conn_kick(conn);
}

size_t conn_queued_bytes(const struct conn *conn)
{
	return conn->queued;
}

const char *conn_peer(const struct conn *conn)
{
	return conn->peer;
}
