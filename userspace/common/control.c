/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control: JSON lines over a UNIX socket. The server half is called by every daemon, the
 * client half (control_call) by the command line. The server never blocks and never holds more
 * than its bounds; who is slow or talks nonsense loses its own connection, nothing else.
 *
 *	a peer is	and goes on to
 *	READING		WRITING when a line is complete; gone at the end, on error, on deadline
 *	WRITING		READING when the answer is written; gone on error, on deadline
 *
 * One daemon a path: a lock on <path>.lock is held for life, so that of two that start at the
 * same time one loses, and a socket that a kill left behind is known to be stale.
 */
#include "control.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LINE_BYTES_MAX (1u << 20)
#define PEERS_MAX 32u
#define PEER_SECONDS 10u
#define BACKLOG 16

struct peer {
	struct control *control;
	struct peer *next;
	int fd;
	sd_event_source *io, *deadline;
	char *in; /* LINE_BYTES_MAX when full */
	size_t in_bytes, in_room;
	char *out; /* NULL: READING */
	size_t out_bytes, out_done;
};

struct control {
	sd_event *event;
	sd_event_source *io;
	int fd, lock;
	char *path;
	json_t *(*handle)(const char *command, const json_t *request, void *user);
	void *user;
	struct peer *peers;
	unsigned peer_count;
};

json_t *control_error(const char *remedy, const char *format, ...)
{
	char message[2048];
	va_list arguments;
	json_t *answer;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	answer = json_pack("{s:b, s:{s:s, s:s*}}", "ok", 0, "error", "message", message, "remedy",
			   remedy);
	if (!answer) /* bytes that are not UTF-8, from a file name perhaps */
		answer = json_pack("{s:b, s:{s:s}}", "ok", 0, "error", "message",
				   "failed; the message is not valid UTF-8, see the daemon's log");
	return answer;
}

json_t *control_answer(const char *line, size_t bytes,
		       json_t *(*handle)(const char *command, const json_t *request, void *user),
		       void *user)
{
	CLEANUP_JSON json_t *request = NULL;
	const char *command;
	json_error_t why;
	json_t *answer;

	request = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &why);
	if (!request)
		return control_error("send one JSON object on a line", "request is not JSON: %s",
				     why.text);
	command = json_string_value(json_object_get(request, "command"));
	if (!command)
		return control_error("send {\"command\": ...}", "request names no command");
	answer = handle(command, request, user);
	return answer ? answer : control_error(NULL, "command %s: out of memory", command);
}

/* One peer. */

static void drop_peer(struct peer *peer)
{
	struct control *control = peer->control;

	for (struct peer **at = &control->peers; *at; at = &(*at)->next) {
		if (*at == peer) {
			*at = peer->next;
			control->peer_count--;
			break;
		}
	}
	sd_event_source_disable_unref(peer->io);
	sd_event_source_disable_unref(peer->deadline);
	close(peer->fd);
	free(peer->in);
	free(peer->out);
	free(peer);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *user)
{
	struct peer *peer = user;

	(void)source;
	(void)usec;
	log_info("control socket %s: a client was dropped: it sent no complete request, or did not "
		 "read its answer, within %u s", peer->control->path, PEER_SECONDS);
	drop_peer(peer);
	return 0;
}

static int set_deadline(struct peer *peer)
{
	int error = sd_event_source_set_time_relative(peer->deadline, PEER_SECONDS * 1000000ull);

	return error < 0 ? error : sd_event_source_set_enabled(peer->deadline, SD_EVENT_ONESHOT);
}

/* Return: 1 written, 0 not yet, negative errno. */
static int write_answer(struct peer *peer)
{
	while (peer->out_done < peer->out_bytes) {
		ssize_t put = send(peer->fd, peer->out + peer->out_done,
				   peer->out_bytes - peer->out_done, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN)
			return 0;
		if (put < 0)
			return -errno;
		peer->out_done += (size_t)put;
	}
	free(peer->out);
	peer->out = NULL;
	return 1;
}

static int set_answer(struct peer *peer, json_t *answer)
{
	char *text = json_dumps(answer, JSON_COMPACT);
	size_t bytes;

	json_decref(answer);
	if (text && strlen(text) >= LINE_BYTES_MAX) {
		free(text);
		answer = control_error("ask for less", "the answer is longer than %u bytes",
				       LINE_BYTES_MAX);
		text = json_dumps(answer, JSON_COMPACT);
		json_decref(answer);
	}
	if (!text)
		return -ENOMEM;
	bytes = strlen(text);
	text[bytes++] = '\n'; /* in place of the NUL: a line, not a string */
	peer->out = text;
	peer->out_bytes = bytes;
	peer->out_done = 0;
	return 0;
}

/* Answer the first line of the input. Return: 1 there was one, 0 none, negative errno. */
static int take_line(struct peer *peer)
{
	char *end = peer->in_bytes ? memchr(peer->in, '\n', peer->in_bytes) : NULL;
	struct control *control = peer->control;
	size_t length;
	int error;

	if (!end)
		return 0;
	length = (size_t)(end - peer->in);
	error = set_answer(peer, control_answer(peer->in, length, control->handle, control->user));
	if (error)
		return error;
	peer->in_bytes -= length + 1;
	memmove(peer->in, end + 1, peer->in_bytes);
	return 1;
}

/* Return: 1 something came, 0 nothing now, negative errno; -ENODATA at the end. */
static int read_more(struct peer *peer)
{
	ssize_t got;

	if (peer->in_bytes == peer->in_room) {
		size_t room = peer->in_room ? peer->in_room * 4 : 4096;
		char *in;

		if (peer->in_room >= LINE_BYTES_MAX)
			return -EMSGSIZE;
		if (room > LINE_BYTES_MAX)
			room = LINE_BYTES_MAX;
		in = realloc(peer->in, room);
		if (!in)
			return -ENOMEM;
		peer->in = in;
		peer->in_room = room;
	}
	got = read(peer->fd, peer->in + peer->in_bytes, peer->in_room - peer->in_bytes);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!got)
		return -ENODATA;
	peer->in_bytes += (size_t)got;
	return 1;
}

/* One request at most a turn. Return: 0, or why the peer is over. */
static int step_peer(struct peer *peer)
{
	int result = 1;

	if (!peer->out) {
		result = take_line(peer);
		if (!result) {
			result = read_more(peer);
			if (result > 0)
				result = take_line(peer);
		}
		if (result <= 0)
			return result;
		result = set_deadline(peer);
		if (result < 0)
			return result;
	}
	result = write_answer(peer);
	if (result <= 0)
		return result;
	return set_deadline(peer);
}

static int on_peer(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct peer *peer = user;
	bool more;
	int error;

	(void)fd;
	(void)revents;
	error = step_peer(peer);
	if (error >= 0) {
		/* A line that is here already brings no event of the socket; writability does. */
		more = peer->out || (peer->in_bytes && memchr(peer->in, '\n', peer->in_bytes));
		error = sd_event_source_set_io_events(source, more ? EPOLLOUT : EPOLLIN);
	}
	if (error >= 0)
		return 0;
	if (error == -EMSGSIZE)
		log_warning("control socket %s: a client was dropped: its request is longer than "
			    "%u "
			    "bytes",
			    peer->control->path, LINE_BYTES_MAX);
	else if (error != -ENODATA)
		log_info("control socket %s: a client was dropped: %s", peer->control->path,
			 strerror(-error));
	drop_peer(peer);
	return 0;
}

static bool allowed(struct control *control, int fd)
{
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t bytes = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes)) {
		log_error("control socket %s: cannot tell who asks: %s", control->path,
			  strerror(errno));
		return false;
	}
	if (peer.uid && peer.uid != geteuid()) {
		log_warning("control socket %s: refused a client of user %u: only root and user %u "
			    "may "
			    "use it",
			    control->path, peer.uid, geteuid());
		return false;
	}
	return true;
}

static int new_peer(struct control *control, int fd)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	int error;

	if (!peer) {
		close(fd);
		return -ENOMEM;
	}
	peer->control = control;
	peer->fd = fd;
	peer->next = control->peers;
	control->peers = peer;
	control->peer_count++;
	error = sd_event_add_io(control->event, &peer->io, fd, EPOLLIN, on_peer, peer);
	if (error >= 0)
		error = sd_event_add_time_relative(control->event, &peer->deadline, CLOCK_BOOTTIME,
						   PEER_SECONDS * 1000000ull, 100000, on_deadline,
						   peer);
	if (error < 0)
		drop_peer(peer);
	return error < 0 ? error : 0;
}

static int on_accept(sd_event_source *source, int listener, uint32_t revents, void *user)
{
	struct control *control = user;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	int error;

	(void)source;
	(void)revents;
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_error("control socket %s: cannot accept a client: %s", control->path,
				  strerror(errno));
		return 0;
	}
	if (control->peer_count >= PEERS_MAX) {
		log_warning("control socket %s: refused a client: %u are connected", control->path,
			    PEERS_MAX);
		close(fd);
		return 0;
	}
	if (!allowed(control, fd)) {
		close(fd);
		return 0;
	}
	error = new_peer(control, fd);
	if (error)
		log_error("control socket %s: cannot serve a client: %s", control->path,
			  strerror(-error));
	return 0;
}

/* The server. */

static int set_path(struct sockaddr_un *address, const char *path)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!*path || strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

static int make_parent(const char *path)
{
	CLEANUP_FREE char *parent = strdup(path);
	char *slash;

	if (!parent)
		return -ENOMEM;
	slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return 0;
	*slash = '\0';
	return util_mkdirs(parent);
}

static int take_lock(struct control *control)
{
	CLEANUP_FREE char *path = NULL;

	if (asprintf(&path, "%s.lock", control->path) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	control->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (control->lock < 0)
		return -errno;
	if (flock(control->lock, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	return 0;
}

static int bind_socket(struct control *control)
{
	struct sockaddr_un address;
	struct stat status;
	int error = set_path(&address, control->path);

	if (!error)
		error = make_parent(control->path);
	if (!error)
		error = take_lock(control);
	if (error)
		return error;
	/* The lock is ours: a socket in the way is stale. Anything else is not ours to remove. */
	if (!lstat(control->path, &status)) {
		if (!S_ISSOCK(status.st_mode))
			return -EEXIST;
		if (unlink(control->path))
			return -errno;
	}
	control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (control->fd < 0)
		return -errno;
	/* On Linux bind() makes the file with the mode of the socket: no moment with another. */
	if (fchmod(control->fd, 0600) ||
	    bind(control->fd, (struct sockaddr *)&address, sizeof(address)) ||
	    chmod(control->path, 0600) || listen(control->fd, BACKLOG))
		return -errno;
	return 0;
}

int control_new(struct control **out, sd_event *event, const char *path,
		json_t *(*handle)(const char *command, const json_t *request, void *user),
		void *user)
{
	struct control *control = calloc(1, sizeof(*control));
	int error;

	if (!control)
		return -ENOMEM;
	control->fd = -1;
	control->lock = -1;
	control->event = sd_event_ref(event);
	control->handle = handle;
	control->user = user;
	control->path = strdup(path);
	error = control->path ? bind_socket(control) : -ENOMEM;
	if (!error)
		error = sd_event_add_io(event, &control->io, control->fd, EPOLLIN, on_accept,
					control);
	if (error < 0) {
		control_free(control);
		return error;
	}
	*out = control;
	return 0;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	while (control->peers)
		drop_peer(control->peers);
	sd_event_source_disable_unref(control->io);
	if (control->fd >= 0) {
		close(control->fd);
		unlink(control->path);
	}
	/* The lock file stays: to remove it would let two daemons hold a lock each. */
	if (control->lock >= 0)
		close(control->lock);
	sd_event_unref(control->event);
	free(control->path);
	free(control);
}

/* The client. */

static int wait_for(int fd, short events, uint64_t deadline_ms)
{
	for (;;) {
		struct pollfd poll_fd = { .fd = fd, .events = events };
		uint64_t now = util_now_ms();
		int ready;

		if (now >= deadline_ms)
			return -ETIMEDOUT;
		ready = poll(&poll_fd, 1, (int)(deadline_ms - now));
		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return -errno;
	}
}

static int send_all(int fd, const char *data, size_t bytes, uint64_t deadline_ms)
{
	while (bytes) {
		ssize_t put = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
		int error;

		if (put >= 0) {
			data += put;
			bytes -= (size_t)put;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		error = wait_for(fd, POLLOUT, deadline_ms);
		if (error)
			return error;
	}
	return 0;
}

static int receive_line(int fd, char *line, size_t room, size_t *bytes, uint64_t deadline_ms)
{
	*bytes = 0;
	for (;;) {
		int error = wait_for(fd, POLLIN, deadline_ms);
		ssize_t got;

		if (error)
			return error;
		got = recv(fd, line + *bytes, room - *bytes, MSG_DONTWAIT);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			return -EPROTO; /* ended inside the answer, or refused us */
		*bytes += (size_t)got;
		if (line[*bytes - 1] == '\n')
			return 0;
		if (*bytes == room)
			return -EPROTO;
	}
}

/* connect() to a UNIX socket is at once, but for a full backlog, which is EAGAIN. */
static int connect_to(const char *path, uint64_t deadline_ms, int *out)
{
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;
	int error = set_path(&address, path);

	if (error)
		return error;
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (util_now_ms() >= deadline_ms)
			return -ETIMEDOUT;
		poll(NULL, 0, 20);
	}
	*out = fd;
	fd = -1;
	return 0;
}

int control_call(const char *path, const json_t *request, unsigned timeout_ms, json_t **answer)
{
	uint64_t deadline_ms = util_now_ms() + timeout_ms;
	CLEANUP_FREE char *text = json_dumps(request, JSON_COMPACT);
	CLEANUP_FREE char *line = malloc(LINE_BYTES_MAX);
	CLEANUP_FD int fd = -1;
	size_t bytes;
	int error;

	*answer = NULL;
	if (!text || !line)
		return -ENOMEM;
	bytes = strlen(text);
	if (bytes >= LINE_BYTES_MAX)
		return -EMSGSIZE;
	text[bytes++] = '\n';
	error = connect_to(path, deadline_ms, &fd);
	if (!error)
		error = send_all(fd, text, bytes, deadline_ms);
	if (!error)
		error = receive_line(fd, line, LINE_BYTES_MAX, &bytes, deadline_ms);
	if (error)
		return error == -EPIPE || error == -ECONNRESET ? -EPROTO : error;
	*answer = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(*answer)) {
		json_decref(*answer);
		*answer = NULL;
		return -EPROTO;
	}
	return 0;
}
