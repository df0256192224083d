/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conn_listen: accepting connections for conn.h. Called by the process server and the master
 * target. Out of descriptors it waits for a second and tries again; nobody is dropped.
 */
#include "conn_internal.h"
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

struct conn_listener {
	sd_event *event;
	const struct transport_ops *transport;
	struct transport *stream;
	sd_event_source *io, *retry;
	void (*accepted)(struct conn *conn, void *user);
	void *user;
};
static int on_retry(sd_event_source *source, uint64_t usec, void *user)
{
	struct conn_listener *listener = user;

	(void)source;
	(void)usec;
	listener->retry = sd_event_source_unref(listener->retry);
	return sd_event_source_set_enabled(listener->io, SD_EVENT_ON);
}

/* Out of descriptors or memory: who waits stays in the backlog for a second. */
static void back_off(struct conn_listener *listener, int error)
{
	int result;

	log_error("listening on %s: cannot accept a connection: %s; trying again in 1 s (too many "
		  "open files: raise LimitNOFILE)", conn_listener_name(listener), strerror(-error));
	result = sd_event_source_set_enabled(listener->io, SD_EVENT_OFF);
	if (result >= 0)
		result = sd_event_add_time_relative(listener->event, &listener->retry,
						    CLOCK_BOOTTIME, 1000000, 100000, on_retry,
						    listener);
	if (result < 0) {
		log_error("listening on %s: cannot set a timer: %s", conn_listener_name(listener),
			  strerror(-result));
		sd_event_source_set_enabled(listener->io, SD_EVENT_ON);
	}
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct conn_listener *listener = user;
	struct transport *stream;
	struct conn *conn;
	int error;

	(void)source;
	(void)fd;
	(void)revents;
	/* One a turn: the owner may close the listener when it is told. */
	error = listener->transport->accept(listener->stream, &stream);
	if (error == -EAGAIN)
		return 0;
	if (!error)
		error = conn_new(&conn, listener->event, listener->transport, stream,
				 CONN_ACCEPTED);
	if (error) {
		back_off(listener, error);
		return 0;
	}
	conn->busy++;
	listener->accepted(conn, listener->user);
	if (conn->state == CONN_ACCEPTED)
		conn_close(conn);
	conn_leave(conn);
	return 0;
}

int conn_listen(struct conn_listener **out, sd_event *event,
		const struct transport_ops *transport, const char *address,
		void (*accepted)(struct conn *conn, void *user), void *user)
{
	struct conn_listener *listener = calloc(1, sizeof(*listener));
	int error;

	if (!listener)
		return -ENOMEM;
	listener->event = sd_event_ref(event);
	listener->transport = transport;
	listener->accepted = accepted;
	listener->user = user;
	error = transport->listen(address, &listener->stream);
	if (!error)
		error = sd_event_add_io(event, &listener->io, transport->fd(listener->stream),
					EPOLLIN, on_accept, listener);
	if (error < 0) {
		conn_listener_close(listener);
		return error;
	}
	*out = listener;
	return 0;
}

const char *conn_listener_name(const struct conn_listener *listener)
{
	return listener->transport->name(listener->stream);
}

void conn_listener_close(struct conn_listener *listener)
{
	if (!listener)
		return;
	sd_event_source_disable_unref(listener->io);
	sd_event_source_disable_unref(listener->retry);
	if (listener->stream)
		listener->transport->close(listener->stream);
	sd_event_unref(listener->event);
	free(listener);
}
