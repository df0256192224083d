/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * transport_tcp: plain TCP behind transport.h. Called by conn.c only. Nothing here blocks:
 * addresses are numeric (or "localhost"), since a resolver may take half a minute and the
 * callers may hold file systems frozen. Peers are not authenticated, so it listens on
 * loopback only.
 */
#include "transport.h"
#include "log.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#define BACKLOG 64

struct transport {
	int fd;
	bool connecting;
	int refused; /* connect() said so at once */
	char name[INET6_ADDRSTRLEN + 16];
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage storage;
};

static bool is_loopback(const union address *address)
{
	if (address->any.sa_family == AF_INET)
		return ntohl(address->v4.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr);
}

static void set_name(struct transport *transport, const union address *address)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (address->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &address->v6.sin6_addr, host, sizeof(host));
		snprintf(transport->name, sizeof(transport->name), "[%s]:%u", host,
			 ntohs(address->v6.sin6_port));
	} else {
		inet_ntop(AF_INET, &address->v4.sin_addr, host, sizeof(host));
		snprintf(transport->name, sizeof(transport->name), "%s:%u", host,
			 ntohs(address->v4.sin_port));
	}
}

/* "host:port" or "[v6]:port". Return: 0 or -EINVAL, said in the log. */
static int parse_address(const char *text, union address *address, socklen_t *bytes)
{
	const struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
	};
	const char *colon = strrchr(text, ':');
	struct addrinfo *found = NULL;
	char host[128];
	size_t length;
	int error;

	if (!colon || !colon[1]) {
		log_error("address \"%s\": no port in it: write host:port or [v6]:port", text);
		return -EINVAL;
	}
	length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && colon[-1] == ']') {
		text++;
		length -= 2;
	} else if (memchr(text, ':', length)) {
		log_error("address \"%s\": an IPv6 address stands in brackets: [v6]:port", text);
		return -EINVAL;
	}
	if (!length || length >= sizeof(host)) {
		log_error("address \"%s\": not host:port or [v6]:port", text);
		return -EINVAL;
	}
	memcpy(host, text, length);
	host[length] = '\0';
	error = getaddrinfo(strcmp(host, "localhost") ? host : "127.0.0.1", colon + 1, &hints,
			    &found);
	if (error) {
		log_error("address \"%s\": not usable: %s (host names are not looked up: give the "
			  "IP address)", text, gai_strerror(error));
		return -EINVAL;
	}
	memcpy(address, found->ai_addr, found->ai_addrlen);
	*bytes = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static int new_transport(int fd, struct transport **transport)
{
	*transport = calloc(1, sizeof(**transport));
	if (!*transport) {
		close(fd);
		return -ENOMEM;
	}
	(*transport)->fd = fd;
	return 0;
}

static void tcp_close(struct transport *stream)
{
	if (!stream)
		return;
	close(stream->fd);
	free(stream);
}

static void set_no_delay(int fd)
{
	int one = 1;

	/* Frames are gathered by conn.c; a kernel that refuses costs latency only. */
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		log_debug("TCP_NODELAY: %s", strerror(errno));
}

static int tcp_listen(const char *text, struct transport **listener)
{
	union address address = { 0 };
	socklen_t bytes;
	int one = 1;
	int error = parse_address(text, &address, &bytes);
	int fd;

	if (error)
		return error;
	if (!is_loopback(&address)) {
		log_error("address \"%s\": will not listen: peers are not authenticated yet, so "
			  "only "
			  "loopback addresses (127.0.0.1, [::1]) are served",
			  text);
		return -EACCES;
	}
	fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	error = new_transport(fd, listener);
	if (error)
		return error;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, &address.any, bytes) || listen(fd, BACKLOG)) {
		error = -errno;
	} else {
		bytes = sizeof(address);
		if (getsockname(fd, &address.any, &bytes))
			error = -errno;
	}
	if (error) {
		tcp_close(*listener);
		*listener = NULL;
		return error;
	}
	set_name(*listener, &address);
	return 0;
}

static int tcp_accept(struct transport *listener, struct transport **stream)
{
	union address address = { 0 };
	socklen_t bytes = sizeof(address);
	int fd = accept4(listener->fd, &address.any, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
	int error;

	if (fd < 0) {
		/* who has hung up already leaves the next in line */
		if (errno == EINTR || errno == ECONNABORTED || errno == EWOULDBLOCK)
			return -EAGAIN;
		return -errno;
	}
	set_no_delay(fd);
	error = new_transport(fd, stream);
	if (!error)
		set_name(*stream, &address);
	return error;
}

static int tcp_connect(const char *text, struct transport **stream)
{
	union address address = { 0 };
	socklen_t bytes;
	int error = parse_address(text, &address, &bytes);
	int fd;

	if (error)
		return error;
	fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	set_no_delay(fd);
	error = new_transport(fd, stream);
	if (error)
		return error;
	set_name(*stream, &address);
	(*stream)->connecting = true;
	/* A refusal at once is told by tcp_connected, like a late one. */
	if (connect(fd, &address.any, bytes) && errno != EINPROGRESS && errno != EINTR)
		(*stream)->refused = -errno;
	return 0;
}

static int tcp_connected(struct transport *stream)
{
	struct pollfd poll_fd = { .fd = stream->fd, .events = POLLOUT };
	socklen_t bytes = sizeof(int);
	int error = 0;

	if (!stream->connecting)
		return 0;
	if (stream->refused)
		return stream->refused;
	if (poll(&poll_fd, 1, 0) <= 0)
		return -EAGAIN;
	if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &bytes))
		return -errno;
	if (error)
		return -error;
	if (poll_fd.revents & (POLLERR | POLLHUP))
		return -ECONNABORTED;
	stream->connecting = false;
	return 0;
}

static ssize_t tcp_readv(struct transport *stream, const struct iovec *iov, int count)
{
	ssize_t got;

	do {
		got = readv(stream->fd, iov, count);
	} while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

static ssize_t tcp_writev(struct transport *stream, const struct iovec *iov, int count)
{
	const struct msghdr message = {
		.msg_iov = (struct iovec *)(uintptr_t)iov,
		.msg_iovlen = (size_t)count,
	};
	ssize_t put;

	do {
		put = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
	} while (put < 0 && errno == EINTR);
	return put < 0 ? -errno : put;
}

static int tcp_shutdown(struct transport *stream)
{
	return shutdown(stream->fd, SHUT_WR) ? -errno : 0;
}

static int tcp_fd(const struct transport *stream)
{
	return stream->fd;
}

static unsigned tcp_wants(const struct transport *stream)
{
	return stream->connecting ? POLLOUT : 0;
}

static const char *tcp_name(const struct transport *stream)
{
	return stream->name;
}

const struct transport_ops transport_tcp = {
	.kind = "tcp",
	.listen = tcp_listen,
	.accept = tcp_accept,
	.connect = tcp_connect,
	.connected = tcp_connected,
	.readv = tcp_readv,
	.writev = tcp_writev,
	.fd = tcp_fd,
	.wants = tcp_wants,
	.name = tcp_name,
	.shutdown = tcp_shutdown,
	.close = tcp_close,
};
