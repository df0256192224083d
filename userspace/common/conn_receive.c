/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conn_receive: the receiving half of conn.h. Called by conn.c from the loop. Many small frames are
 * taken with one read into the buffer; the rest of a large payload goes straight to where its owner
 * wants it. What a peer sends is not believed before its checksum was seen.
 */
#include "conn_internal.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RX_LARGE (64u * 1024u) /* from here on payloads go straight to where they belong */
#define RX_AHEAD 4096u	       /* read behind a large payload, for the next header */
#define RX_BUDGET (4u * 1024u * 1024u) /* bytes in one turn, so that others get theirs */

/* The peer does not keep to the format: tell it, if it still listens, and be done with it. */
static void refuse_peer(struct conn *conn, int error, const char *code, const char *what)
{
	int sent = conn_send_error(conn, 0, code, what, "both ends must run the same release, and "
				   "nothing may change the stream in between", true);

	if (!sent)
		sent = conn_write(conn);
	if (sent)
		log_debug("connection to %s: could not say why it is closed: %s", conn->peer,
			  strerror(-sent));
	conn_over(conn, error, "%s", what);
}

static void answer_ping(struct conn *conn)
{
	struct wire_frame frame = { .type = WIRE_PONG };
	int error;

	if (conn->pong_queued)
		return; /* one answer is enough */
	error = conn_queue(conn, &frame, true, NULL, NULL, NULL);
	if (error)
		log_warning("connection to %s: cannot answer a PING: %s", conn->peer,
			    strerror(-error));
	else
		conn->pong_queued = true;
}

/* A whole frame is there. */
static void deliver(struct conn *conn)
{
	struct wire_frame frame = conn->frame;
	uint8_t *payload = conn->payload;
	char what[160];
	int error;

	conn->have_frame = false;
	conn->payload = NULL;
	conn->payload_got = 0;
	conn->large = frame.payload_bytes >= RX_LARGE;
	if (frame.payload_bytes && wire_crc(payload, frame.payload_bytes) != frame.payload_crc) {
		snprintf(what, sizeof(what),
			 "payload checksum of %s (epoch %" PRIu64 ", frame %u, "
			 "disk %u, offset %" PRIu64 ") does not match",
			 wire_type_name(frame.type), frame.epoch, frame.seq, frame.disk,
			 frame.offset);
		refuse_peer(conn, -EBADMSG, "bad-frame", what);
		return;
	}
	if (frame.type == WIRE_PING) {
		answer_ping(conn);
		return;
	}
	if (frame.type == WIRE_PONG)
		return;
	error = conn->ops->frame(conn, &frame, payload, conn->user);
	if (error < 0 && conn->state == CONN_OPEN)
		conn_over(conn, error, "%s (epoch %" PRIu64 ", frame %u) was refused here: %s",
		     wire_type_name(frame.type), frame.epoch, frame.seq, strerror(-error));
}

/* Where the payload of conn->frame goes. Return: whether it is known. */
static bool place_payload(struct conn *conn)
{
	if (!conn->ops->payload) {
		if (conn->rx_tail - conn->rx_head >= conn->frame.payload_bytes) {
			conn->payload = conn->rx + conn->rx_head; /* it is all here: in place */
			conn->rx_head += conn->frame.payload_bytes;
			conn->payload_got = conn->frame.payload_bytes;
			return true;
		}
		if (!conn->own)
			conn->own = malloc(WIRE_PAYLOAD_MAX);
		if (!conn->own)
			conn_over(conn, -ENOMEM, "no memory for a payload");
		conn->payload = conn->own;
		return conn->payload != NULL;
	}
	/* Set first: the owner may call conn_resume() before it returns. */
	conn->payload_wait = true;
	conn->payload = conn->ops->payload(conn, &conn->frame, conn->user);
	if (conn->payload)
		conn->payload_wait = false;
	return conn->payload != NULL;
}

/* Decode a header from rx[]. Return: whether there was a whole and good one. */
static bool take_header(struct conn *conn)
{
	const char *why;
	char what[128];
	int error;

	if (conn->rx_tail - conn->rx_head < WIRE_HEADER_BYTES)
		return false;
	error = wire_decode(conn->rx + conn->rx_head, &conn->frame, &why);
	if (error) {
		snprintf(what, sizeof(what), "bad frame header: %s", why);
		refuse_peer(conn, error, error == -EPROTONOSUPPORT ? "version" : "bad-frame", what);
		return false;
	}
	conn->rx_head += WIRE_HEADER_BYTES;
	conn->have_frame = true;
	return true;
}

/* Hand out the frames that rx[] holds; afterwards it holds less than a header, or reading stopped.
 */
void conn_parse(struct conn *conn)
{
	while (conn_reading(conn)) {
		size_t here, missing;

		if (!conn->have_frame && !take_header(conn))
			return;
		if (conn->frame.payload_bytes && !conn->payload && !place_payload(conn))
			return;
		if (conn->state != CONN_OPEN)
			return;
		here = conn->rx_tail - conn->rx_head;
		missing = conn->frame.payload_bytes - conn->payload_got;
		if (here > missing)
			here = missing;
		if (here) {
			memcpy(conn->payload + conn->payload_got, conn->rx + conn->rx_head, here);
			conn->rx_head += here;
			conn->payload_got += here;
		}
		if (conn->payload_got < conn->frame.payload_bytes)
			return;
		deliver(conn);
	}
}

static void rx_compact(struct conn *conn)
{
	size_t here = conn->rx_tail - conn->rx_head;

	if (here && conn->rx_head)
		memmove(conn->rx, conn->rx + conn->rx_head, here);
	conn->rx_head = 0;
	conn->rx_tail = here;
}

static int rx_vectors(struct conn *conn, struct iovec iov[2], size_t *direct)
{
	size_t room = conn->large ? RX_AHEAD : CONN_RX_BYTES - conn->rx_tail;
	int count = 0;

	*direct = 0;
	if (conn->have_frame) {
		*direct = conn->frame.payload_bytes - conn->payload_got;
		iov[count].iov_base = conn->payload + conn->payload_got;
		iov[count++].iov_len = *direct;
		if (*direct >= RX_LARGE)
			room = RX_AHEAD;
	}
	iov[count].iov_base = conn->rx + conn->rx_tail;
	iov[count++].iov_len = room;
	return count;
}

static void at_end(struct conn *conn)
{
	if (conn->have_frame || conn->rx_tail != conn->rx_head)
		conn_over(conn, -ECONNRESET, "the peer closed the connection inside a frame");
	else
		conn_over(conn, 0, "the peer closed the connection");
}

void conn_receive(struct conn *conn)
{
	size_t total = 0;

	if (conn->rx_head != conn->rx_tail || conn->have_frame)
		conn_parse(conn); /* what was left when it was paused */
	while (conn_reading(conn) && total < RX_BUDGET) {
		struct iovec iov[2];
		size_t direct, asked = 0;
		ssize_t got;
		int count;

		rx_compact(conn);
		count = rx_vectors(conn, iov, &direct);
		for (int i = 0; i < count; i++)
			asked += iov[i].iov_len;
		got = conn->transport->readv(conn->stream, iov, count);
		if (got == -EAGAIN)
			return;
		if (got < 0) {
			conn_over(conn, (int)got, "cannot receive: %s", strerror(-(int)got));
			return;
		}
		if (got == 0) {
			at_end(conn);
			return;
		}
		conn->heard_ms = util_now_ms();
		total += (size_t)got;
		if ((size_t)got > direct) {
			conn->payload_got += direct;
			conn->rx_tail += (size_t)got - direct;
		} else {
			conn->payload_got += (size_t)got;
		}
		conn_parse(conn);
		if ((size_t)got < asked)
			return; /* that was all */
	}
}

/* Closing: what the peer still says is of no interest, its end is. */
void conn_discard(struct conn *conn)
{
	for (size_t total = 0; total < RX_BUDGET;) {
		struct iovec iov = { .iov_base = conn->rx, .iov_len = CONN_RX_BYTES };
		ssize_t got = conn->transport->readv(conn->stream, &iov, 1);

		if (got == -EAGAIN)
			return;
		if (got <= 0) {
			conn_close(conn);
			return;
		}
		total += (size_t)got;
	}
}
