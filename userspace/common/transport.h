/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * transport: a byte stream to another machine, behind one table of functions,
 * so that what encrypts it can be put in its place without touching its users.
 * All calls are non-blocking. conn.c is the only user.
 *
 * Until connections are authenticated, transport_tcp listens on loopback only.
 */
#ifndef REPROTECT_TRANSPORT_H
#define REPROTECT_TRANSPORT_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport; /* one end of a stream, or a listener */

/**
 * struct transport_ops - a kind of transport
 * @listen: on @address ("host:port", "[v6]:port"); refuses (-EACCES) what is
 *	not loopback. Port 0 picks one.
 * @accept: -EAGAIN when nobody is waiting
 * @connect: begins; @connected tells when it is done
 * @connected: 0 done, -EAGAIN not yet, else why it failed
 * @readv: bytes, 0 at the end, -EAGAIN, or another error
 * @writev: likewise
 * @fd: to wait on
 * @wants: POLLIN/POLLOUT that a pending readv or writev waits for, beyond the obvious
 * @name: of the peer, or the listener's own address, for messages
 * @shutdown: nothing more will be written; reading goes on
 */
struct transport_ops {
	const char *kind;
	int (*listen)(const char *address, struct transport **listener);
	int (*accept)(struct transport *listener, struct transport **stream);
	int (*connect)(const char *address, struct transport **stream);
	int (*connected)(struct transport *stream);
	ssize_t (*readv)(struct transport *stream, const struct iovec *iov, int count);
	ssize_t (*writev)(struct transport *stream, const struct iovec *iov, int count);
	int (*fd)(const struct transport *stream);
	unsigned (*wants)(const struct transport *stream);
	const char *(*name)(const struct transport *stream);
	int (*shutdown)(struct transport *stream);
	void (*close)(struct transport *stream);
};

extern const struct transport_ops transport_tcp;

#endif
