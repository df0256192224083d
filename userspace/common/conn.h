/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conn: a connection that carries wire frames, on an sd-event loop.
 *
 * Receiving: the header is decoded and checked, the owner says where the
 * payload goes (so it can land in an aligned or registered buffer), the payload CRC is
 * checked, the owner gets the frame. An owner without a free buffer pauses the
 * connection; TCP then slows the sender. Sending: frames are queued with their payload
 * by reference up to a bound and written with writev. Idle connections are
 * pinged; a peer that is silent too long is closed. No call blocks.
 *
 * Callbacks run from the event loop only, never from inside a conn_ call
 * (closing from a callback is allowed; conn_close frees the conn later, after the
 * callback has returned, and no callback follows it). Payload release functions of
 * frames never written are called at close.
 */
#ifndef REPROTECT_CONN_H
#define REPROTECT_CONN_H

#include <systemd/sd-event.h>

#include "transport.h"
#include "wire.h"

struct conn;
struct conn_listener;

#define CONN_CONNECT_MS 10000u /* default deadline to connect */
#define CONN_PING_MS 3000u     /* silence after which a PING is sent */
#define CONN_DEAD_MS 12000u    /* silence (while paused: no progress in sending) after which the peer is dead */
#define CONN_SEND_BYTES_MAX (8u * 1024u * 1024u) /* default bound on what is queued */

/**
 * struct conn_ops - what the owner of a connection is told
 * @connected: an outgoing connection is up (may be NULL for accepted ones)
 * @payload: where the payload of @frame goes: payload_bytes bytes. NULL pauses
 *	the connection until conn_resume(), when it is asked again. Not called for frames
 *	without payload. NULL function: conn provides a buffer, valid during @frame only.
 * @frame: a whole frame with a good payload. A negative errno closes the
 *	connection (@closed is then called with it).
 * @writable: what is queued fell to half the bound after conn_send said -EAGAIN
 * @closed: the connection is over: @error (negative errno, 0 for a regular end) and a text
 *	for people. The owner must conn_close() it, here or later.
 */
struct conn_ops {
	void (*connected)(struct conn *conn, void *user);
	void *(*payload)(struct conn *conn, const struct wire_frame *frame, void *user);
	int (*frame)(struct conn *conn, const struct wire_frame *frame, void *payload, void *user);
	void (*writable)(struct conn *conn, void *user);
	void (*closed)(struct conn *conn, int error, const char *why, void *user);
};

/** conn_connect - begin a connection to @address ("host:port"). Errors: address unusable. */
int conn_connect(struct conn **conn, sd_event *event, const struct transport_ops *transport,
		 const char *address, const struct conn_ops *ops, void *user);

/**
 * conn_listen - accept connections on @address
 * @accepted: must call conn_start() (or conn_close()) on the new conn before it returns
 */
int conn_listen(struct conn_listener **listener, sd_event *event,
		const struct transport_ops *transport, const char *address,
		void (*accepted)(struct conn *conn, void *user), void *user);
/** conn_listener_name - the address in use, with the port that was picked */
const char *conn_listener_name(const struct conn_listener *listener);
void conn_listener_close(struct conn_listener *listener);

/** conn_start - give an accepted connection its owner */
void conn_start(struct conn *conn, const struct conn_ops *ops, void *user);

/**
 * conn_send - queue a frame
 * @frame: copied; payload_crc is filled in here unless @crc_known
 * @payload: stays valid until @release(@arg) is called (exactly once, from the loop or from
 *	conn_close); NULL @release: the payload is copied (small payloads only, <= WIRE_JSON_MAX)
 *
 * Return: 0; -EAGAIN queued bytes are at the bound (nothing was queued, @writable will
 * be called); -ENOTCONN closed or not yet connected; -ENOMEM; -EINVAL a frame that the peer
 * would refuse (see wire_decode()).
 */
int conn_send(struct conn *conn, const struct wire_frame *frame, bool crc_known,
	      const void *payload, void (*release)(void *arg), void *arg);

/** conn_send_error - queue an ERROR frame, regardless of the bound */
int conn_send_error(struct conn *conn, uint64_t epoch, const char *code, const char *message,
		    const char *remedy, bool fatal);

/** conn_set_deadlines - other values than CONN_PING_MS and CONN_DEAD_MS for this connection */
void conn_set_deadlines(struct conn *conn, unsigned ping_ms, unsigned dead_ms);

/** conn_finish - close once everything queued is written (deadline CONN_DEAD_MS); no more callbacks but release */
void conn_finish(struct conn *conn);

/* A paused end keeps sending PINGs, so its peer waits for it, for as long as it takes. */
void conn_pause(struct conn *conn);  /* stop reading; silence does not count while paused */
void conn_resume(struct conn *conn); /* read on, from the loop */
size_t conn_queued_bytes(const struct conn *conn);
const char *conn_peer(const struct conn *conn);
void conn_close(struct conn *conn);

#endif
