/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conn_internal: what the files of conn share, and nobody else includes: conn.c (life of a
 * connection), conn_send.c, conn_receive.c, conn_listen.c.
 */
#ifndef REPROTECT_CONN_INTERNAL_H
#define REPROTECT_CONN_INTERNAL_H

#include "conn.h"

#define CONN_RX_BYTES (256u * 1024u)

enum conn_state {
	CONN_CONNECTING,
	CONN_ACCEPTED,
	CONN_OPEN,
	CONN_FINISHING,
	CONN_DRAINING,
	CONN_OVER,
	CONN_CLOSED,
};

struct tx_frame {
	struct tx_frame *next;
	uint16_t type;
	uint8_t header[WIRE_HEADER_BYTES];
	const void *payload;
	size_t payload_bytes;
	void (*release)(void *arg);
	void *arg;
	uint8_t copy[]; /* the payload, when there is no release */
};

struct conn {
	enum conn_state state;
	unsigned busy; /* depth of callbacks that use it */
	sd_event *event;
	const struct transport_ops *transport;
	struct transport *stream;
	const struct conn_ops *ops;
	void *user;
	char peer[96];
	sd_event_source *io, *tick, *kick;
	uint32_t events; /* what @io waits for */

	/* receiving */
	bool paused;	   /* conn_pause() */
	bool payload_wait; /* the owner had no buffer */
	bool have_frame;   /* @frame is decoded, its payload not complete */
	bool large;	   /* the last payload was */
	struct wire_frame frame;
	uint8_t *payload; /* where it goes; NULL: not known yet */
	size_t payload_got;
	uint8_t *own;		/* for owners without @payload */
	size_t rx_head, rx_tail; /* what rx[] holds */
	uint8_t *rx;

	/* sending */
	struct tx_frame *tx_first, *tx_last;
	size_t tx_offset; /* of tx_first: written so far */
	size_t queued;
	bool blocked; /* the transport takes no more for now */
	bool want_writable, ping_queued, pong_queued;
	unsigned errors_queued;

	uint64_t ping_ms, dead_ms;
	uint64_t since_ms; /* connecting or finishing */
	uint64_t heard_ms, wrote_ms, pinged_ms;
};

/* Whether bytes are wanted now. */
static inline bool conn_reading(const struct conn *conn)
{
	return conn->state == CONN_OPEN && !conn->paused && !conn->payload_wait;
}

/* conn.c. All but conn_kick() and conn_leave() are called from the loop only. */

/** conn_over - the connection is over: tell the owner @error and why */
void conn_over(struct conn *conn, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/** conn_kick - have the loop come to @conn without waiting for the transport */
void conn_kick(struct conn *conn);
/** conn_leave - a callback that counted itself in conn->busy is over; may free @conn */
void conn_leave(struct conn *conn);
/** conn_new - a connection over @stream, which it takes, also when it fails */
int conn_new(struct conn **out, sd_event *event, const struct transport_ops *transport,
	     struct transport *stream, enum conn_state state);

/* conn_send.c */

/** conn_queue - queue a frame whatever the bound says; @release NULL: @payload is copied */
int conn_queue(struct conn *conn, const struct wire_frame *frame, bool crc_known,
	       const void *payload, void (*release)(void *arg), void *arg);
/** conn_write - write until the transport is full or the turn is over; 0 or why it is broken */
int conn_write(struct conn *conn);
/** conn_flush - conn_write(), and what follows from it */
void conn_flush(struct conn *conn);
/** conn_release_all - let go of all that is queued */
void conn_release_all(struct conn *conn);

/* conn_receive.c */

/** conn_parse - hand out the frames that are in the buffer already */
void conn_parse(struct conn *conn);
/** conn_receive - read from the transport and hand out frames, for one turn */
void conn_receive(struct conn *conn);
/** conn_discard - read and forget; closes @conn at the end */
void conn_discard(struct conn *conn);

#endif
