/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conn_send: the sending half of conn.h: a queue of frames with their payload by reference, bounded
 * by CONN_SEND_BYTES_MAX, written in batches with writev. Called by owners (conn_send) and by
 * conn.c from the loop. Each payload is released once: when it is written, or at conn_close().
 */
#include "conn_internal.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <string.h>

#define TX_VECTORS 256
#define TX_BUDGET (4u * 1024u * 1024u)
#define ERRORS_MAX 16u /* ERROR frames queued regardless of the bound */

static void release_frame(struct tx_frame *tx)
{
	if (tx->release)
		tx->release(tx->arg);
	free(tx);
}

void conn_release_all(struct conn *conn)
{
	while (conn->tx_first) {
		struct tx_frame *tx = conn->tx_first;

		conn->tx_first = tx->next;
		release_frame(tx);
	}
	conn->queued = 0;
}

static void tx_append(struct conn *conn, struct tx_frame *tx)
{
	if (conn->tx_first)
		conn->tx_last->next = tx;
	else
		conn->tx_first = tx;
	conn->tx_last = tx;
	conn->queued += WIRE_HEADER_BYTES + tx->payload_bytes;
	if (!conn->blocked)
		conn_kick(conn);
}

int conn_queue(struct conn *conn, const struct wire_frame *frame, bool crc_known,
		    const void *payload, void (*release)(void *arg), void *arg)
{
	struct wire_frame header = *frame, check;
	bool copy = payload && frame->payload_bytes && !release;
	struct tx_frame *tx;
	int error;

	if (frame->payload_bytes && !payload)
		return -EINVAL;
	if (!crc_known)
		header.payload_crc =
			frame->payload_bytes ? wire_crc(payload, frame->payload_bytes) : 0;
	tx = malloc(sizeof(*tx) + (copy ? frame->payload_bytes : 0));
	if (!tx)
		return -ENOMEM;
	*tx = (struct tx_frame){
		.type = frame->type,
		.payload = payload,
		.payload_bytes = frame->payload_bytes,
		.release = release,
		.arg = arg,
	};
	wire_encode(&header, tx->header);
	error = wire_decode(tx->header, &check, NULL); /* what the peer would refuse stays here */
	if (error) {
		free(tx);
		return -EINVAL;
	}
	if (copy) {
		memcpy(tx->copy, payload, frame->payload_bytes);
		tx->payload = tx->copy;
	}
	tx_append(conn, tx);
	return 0;
}

int conn_send(struct conn *conn, const struct wire_frame *frame, bool crc_known,
	      const void *payload, void (*release)(void *arg), void *arg)
{
	if (conn->state != CONN_OPEN)
		return -ENOTCONN;
	if (!release && frame->payload_bytes > WIRE_JSON_MAX)
		return -EINVAL;
	if (conn->queued >= CONN_SEND_BYTES_MAX) {
		conn->want_writable = true;
		return -EAGAIN;
	}
	return conn_queue(conn, frame, crc_known, payload, release, arg);
}

int conn_send_error(struct conn *conn, uint64_t epoch, const char *code, const char *message,
		    const char *remedy, bool fatal)
{
	struct wire_frame frame = { .type = WIRE_ERROR, .epoch = epoch };
	CLEANUP_FREE char *text = NULL;
	CLEANUP_JSON json_t *json = NULL;
	size_t bytes;
	int error;

	if (conn->state != CONN_OPEN)
		return -ENOTCONN;
	if (conn->errors_queued >= ERRORS_MAX)
		return -EAGAIN;
	json = json_pack("{s:s, s:s, s:s, s:b}", "code", code, "message", message, "remedy",
			 remedy ? remedy : "", "fatal", fatal);
	if (json)
		text = json_dumps(json, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	bytes = strlen(text);
	if (bytes > WIRE_JSON_MAX)
		return -EMSGSIZE;
	frame.payload_bytes = (uint32_t)bytes;
	error = conn_queue(conn, &frame, false, text, NULL, NULL);
	if (!error)
		conn->errors_queued++;
	return error;
}

/* @put bytes of the queue are written. */
static void tx_consume(struct conn *conn, size_t put)
{
	while (put && conn->tx_first) {
		struct tx_frame *tx = conn->tx_first;
		size_t total = WIRE_HEADER_BYTES + tx->payload_bytes;

		if (put < total - conn->tx_offset) {
			conn->tx_offset += put;
			return;
		}
		put -= total - conn->tx_offset;
		conn->tx_offset = 0;
		conn->tx_first = tx->next;
		conn->queued -= total;
		if (tx->type == WIRE_PING)
			conn->ping_queued = false;
		else if (tx->type == WIRE_PONG)
			conn->pong_queued = false;
		else if (tx->type == WIRE_ERROR && conn->errors_queued)
			conn->errors_queued--;
		release_frame(tx); /* may call anything, conn_close too: that empties the queue */
		if (conn->state == CONN_CLOSED)
			return;
	}
}

static int tx_vectors(const struct conn *conn, struct iovec *iov, size_t *bytes)
{
	size_t skip = conn->tx_offset;
	int count = 0;

	*bytes = 0;
	for (struct tx_frame *tx = conn->tx_first; tx && count + 2 <= TX_VECTORS; tx = tx->next) {
		if (skip < WIRE_HEADER_BYTES) {
			iov[count].iov_base = tx->header + skip;
			iov[count].iov_len = WIRE_HEADER_BYTES - skip;
			*bytes += iov[count++].iov_len;
			skip = 0;
		} else {
			skip -= WIRE_HEADER_BYTES;
		}
		if (tx->payload_bytes) {
			iov[count].iov_base = (uint8_t *)(uintptr_t)tx->payload + skip;
			iov[count].iov_len = tx->payload_bytes - skip;
			*bytes += iov[count++].iov_len;
		}
		skip = 0;
		if (*bytes >= TX_BUDGET)
			break;
	}
	return count;
}

int conn_write(struct conn *conn)
{
	struct iovec iov[TX_VECTORS];
	size_t total = 0;

	while (conn->tx_first && !conn->blocked && total < TX_BUDGET) {
		size_t bytes;
		int count = tx_vectors(conn, iov, &bytes);
		ssize_t put = conn->transport->writev(conn->stream, iov, count);

		if (put == -EAGAIN) {
			conn->blocked = true;
			break;
		}
		if (put < 0)
			return (int)put;
		conn->blocked = (size_t)put < bytes;
		conn->wrote_ms = util_now_ms();
		total += (size_t)put;
		tx_consume(conn, (size_t)put);
		if (conn->state == CONN_CLOSED)
			return 0;
	}
	return 0;
}

static void finish_step(struct conn *conn)
{
	int error;

	if (conn->state != CONN_FINISHING || conn->tx_first)
		return;
	error = conn->transport->shutdown ? conn->transport->shutdown(conn->stream) : -ENOTSUP;
	if (error) {
		conn_close(conn);
		return;
	}
	conn->state = CONN_DRAINING;
}

void conn_flush(struct conn *conn)
{
	int error;

	if (conn->state != CONN_OPEN && conn->state != CONN_FINISHING)
		return;
	error = conn_write(conn);
	if (error) {
		conn_over(conn, error, "cannot send: %s", strerror(-error));
		return;
	}
	finish_step(conn);
	if (conn->state == CONN_OPEN && conn->want_writable &&
	    conn->queued <= CONN_SEND_BYTES_MAX / 2) {
		conn->want_writable = false;
		if (conn->ops->writable)
			conn->ops->writable(conn, conn->user);
	}
	if (conn->tx_first && !conn->blocked)
		conn_kick(conn);
}
