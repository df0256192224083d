/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io: the part of disk I/O that all engines share: the line of requests, short
 * transfers, retries, ways to write zeros, and the meeting with the event loop. Called by the
 *agent, the process server and the master target. Promises: @done is called exactly once for each
 * request, from the loop, with all bytes moved or an error.
 *
 * Requests wait in line until the loop is about to wait; then as many as the depth allows are
 * pushed and submitted with one call. A request goes
 *
 *	line -> engine -> done
 *	          |  ^
 *	          +--+	short, EINTR, EAGAIN, next way to write zeros: back in front of the line
 */
#include "io.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define REAP_BATCH 64u
#define STEP_MAX (1ull << 30)		/* the kernel moves just under 2 GiB at a time */
#define ZERO_STEP_MAX (256ull << 20)	/* so that one request does not hold up a close */
#define ZERO_BLOCK_BYTES (1u << 20)
#define RETRIES_MAX 10000u
#define CLOSE_MS 60000u

struct request_list {
	struct io_request *first, *last;
};

struct io_engine {
	const struct io_ops *ops;
	void *context;
	sd_event_source *source;
	int eventfd;
	unsigned depth;
	unsigned pushed; /* in the engine */
	unsigned waiting; /* in line or failed */
	struct request_list line;
	struct request_list failed; /* could not be pushed: moved holds the error */
	bool freed;		    /* by a done callback */
	unsigned busy;
};

static void append(struct request_list *list, struct io_request *request)
{
	request->next = NULL;
	if (list->first)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

static void prepend(struct request_list *list, struct io_request *request)
{
	request->next = list->first;
	list->first = request;
	if (!list->last || !request->next)
		list->last = request;
}

static struct io_request *pop(struct request_list *list)
{
	struct io_request *request = list->first;

	if (request) {
		list->first = request->next;
		if (!list->first)
			list->last = NULL;
		request->next = NULL;
	}
	return request;
}

void *io_buffer_alloc(size_t bytes)
{
	void *buffer;

	return posix_memalign(&buffer, 4096, bytes) ? NULL : buffer;
}

uint64_t io_step_bytes(const struct io_request *request)
{
	uint64_t rest = request->bytes - request->moved;
	uint64_t most = STEP_MAX;

	if (request->op == IO_ZERO)
		most = request->zero_way == IO_ZERO_WRITE ? ZERO_BLOCK_BYTES : ZERO_STEP_MAX;
	return rest < most ? rest : most;
}

static void *zero_block;

static void make_zero_block(void)
{
	zero_block = io_buffer_alloc(ZERO_BLOCK_BYTES);
	if (zero_block)
		memset(zero_block, 0, ZERO_BLOCK_BYTES);
}

void *io_step_data(const struct io_request *request)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (request->op != IO_ZERO)
		return (char *)request->data + request->moved;
	pthread_once(&once, make_zero_block);
	return zero_block;
}

/* Have the loop come, also when the kernel has nothing to tell. */
static void wake(struct io_engine *engine)
{
	/* EAGAIN: the counter is at its top, so it is readable: as good as written. */
	if (eventfd_write(engine->eventfd, 1) && errno != EAGAIN)
		log_error("disk I/O: cannot wake the event loop: %s", strerror(errno));
}

static void fail_later(struct io_engine *engine, struct io_request *request, int error)
{
	request->moved = (uint64_t)-error;
	append(&engine->failed, request);
	engine->waiting++;
	wake(engine);
}

static void push_line(struct io_engine *engine)
{
	bool any = false;

	while (engine->line.first && engine->pushed < engine->depth) {
		struct io_request *request = pop(&engine->line);
		int error = engine->ops->push(engine->context, request);

		if (error == -EAGAIN) {
			prepend(&engine->line, request);
			break;
		}
		engine->waiting--;
		if (error) {
			fail_later(engine, request, error);
			continue;
		}
		engine->pushed++;
		any = true;
	}
	/* EAGAIN of submit: what was pushed stays with the engine; the next turn submits it. */
	if (any || engine->pushed) {
		int error = engine->ops->submit(engine->context);

		if (error == -EAGAIN || error == -EBUSY || error == -EINTR)
			wake(engine);
		else if (error)
			log_error("disk I/O: %s: cannot submit: %s", engine->ops->name,
				  strerror(-error));
	}
}

static int on_prepare(sd_event_source *source, void *user)
{
	(void)source;
	push_line(user);
	return 0;
}

/* The next thing to try after @result, or the error when there is none. Return 1: push it again. */
static int other_zero_way(struct io_request *request, int result)
{
	if (request->op != IO_ZERO)
		return result;
	if (result != -EOPNOTSUPP && result != -ENODEV && result != -EINVAL && result != -ENOSYS)
		return result;
	if (request->zero_way == IO_ZERO_WRITE)
		return result;
	request->zero_way = request->zero_way == IO_ZERO_PUNCH ? IO_ZERO_RANGE : IO_ZERO_WRITE;
	return 1;
}

/* Return: 1 go on with the rest; 0 all done; negative errno. */
static int judge(struct io_request *request, int64_t result)
{
	uint64_t step = io_step_bytes(request);

	if (result == -EINTR || result == -EAGAIN)
		return request->retries++ < RETRIES_MAX ? 1 : (int)result;
	if (result == -EINVAL && request->op == IO_READ && request->moved % 512)
		return -ENODATA; /* O_DIRECT behind the end of a file that ends inside a sector */
	if (result < 0)
		return other_zero_way(request, (int)result);
	if (request->op == IO_SYNC)
		return 0;
	if (request->op == IO_ZERO && request->zero_way != IO_ZERO_WRITE)
		result = (int64_t)step; /* fallocate() does all or fails */
	if (result == 0 && step)
		return request->op == IO_READ ? -ENODATA : -EIO;
	if ((uint64_t)result > step)
		return -EIO; /* more than was asked for: nothing about it can be believed */
	request->moved += (uint64_t)result;
	request->retries = 0;
	return request->moved < request->bytes;
}

static void complete(struct io_engine *engine, const struct io_completion *completion)
{
	struct io_request *request = completion->request;
	int verdict = judge(request, completion->result);

	if (verdict > 0) {
		prepend(&engine->line, request);
		engine->waiting++;
		return;
	}
	request->done(request, verdict);
}

static void reap(struct io_engine *engine)
{
	struct io_completion completions[REAP_BATCH];
	struct io_request *request;
	int count;

	while ((request = pop(&engine->failed))) {
		engine->waiting--;
		request->done(request, -(int)request->moved);
		if (engine->freed)
			return;
	}
	count = engine->ops->reap(engine->context, completions, REAP_BATCH);
	if (count < 0) {
		log_error("disk I/O: %s: cannot fetch completions: %s", engine->ops->name,
			  strerror(-count));
		return;
	}
	engine->pushed -= (unsigned)count; /* before any callback: it may free the engine */
	for (int i = 0; i < count; i++) {
		complete(engine, &completions[i]);
		/* The rest of this batch is over as well, and its owner does not want to know. */
		if (engine->freed)
			return;
	}
	if (count == (int)REAP_BATCH)
		wake(engine); /* there may be more; others get their turn first */
}

static int on_eventfd(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct io_engine *engine = user;
	eventfd_t count;

	(void)source;
	(void)revents;
	if (eventfd_read(fd, &count) && errno != EAGAIN && errno != EINTR)
		log_error("disk I/O: cannot read the eventfd: %s", strerror(errno));
	engine->busy++;
	reap(engine);
	if (!--engine->busy && engine->freed)
		free(engine);
	return 0;
}

static int open_engine(struct io_engine *engine, const struct io_ops *ops)
{
	int error;

	if (ops) {
		engine->ops = ops;
		return ops->open(engine->depth, engine->eventfd, &engine->context);
	}
	error = open_engine(engine, &io_uring_ops);
	if (error != -ENOSYS && error != -EPERM && error != -EACCES && error != -EINVAL &&
	    error != -ENOMEM)
		return error;
	log_notice("disk I/O: io_uring is not available (%s): using libaio, which costs more CPU "
		   "(see sysctl kernel.io_uring_disabled, LimitMEMLOCK and seccomp filters)",
		   strerror(-error));
	return open_engine(engine, &io_libaio_ops);
}

int io_engine_new(struct io_engine **out, sd_event *event, const struct io_ops *ops, unsigned depth)
{
	struct io_engine *engine;
	int error;

	if (!depth)
		return -EINVAL;
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return -ENOMEM;
	engine->depth = depth;
	engine->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (engine->eventfd < 0) {
		error = -errno;
		free(engine);
		return error;
	}
	error = open_engine(engine, ops);
	if (error) {
		close(engine->eventfd);
		free(engine);
		return error;
	}
	error = sd_event_add_io(event, &engine->source, engine->eventfd, EPOLLIN, on_eventfd,
				engine);
	if (error >= 0)
		error = sd_event_source_set_prepare(engine->source, on_prepare);
	if (error < 0) {
		io_engine_free(engine);
		return error;
	}
	*out = engine;
	return 0;
}

int io_engine_register(struct io_engine *engine, const struct iovec *iov, unsigned count)
{
	int error = engine->ops->register_buffers
			    ? engine->ops->register_buffers(engine->context, iov, count)
			    : -EOPNOTSUPP;

	if (error && error != -EOPNOTSUPP)
		log_notice("disk I/O: %s: cannot register %u buffers: %s; going on without, which "
			   "costs "
			   "some CPU (raise LimitMEMLOCK)",
			   engine->ops->name, count, strerror(-error));
	return 0;
}

int io_engine_hold(struct io_engine *engine, int fd)
{
	return engine->ops->hold ? engine->ops->hold(engine->context, fd) : 0;
}

void io_engine_submit(struct io_engine *engine, struct io_request *request)
{
	request->moved = 0;
	request->retries = 0;
	/* Thin targets stay thin where they can. */
	request->zero_way = IO_ZERO_PUNCH;
	if ((!request->bytes && request->op != IO_SYNC) ||
	    request->bytes > INT64_MAX || request->offset > INT64_MAX - request->bytes) {
		fail_later(engine, request, -EINVAL);
		return;
	}
	append(&engine->line, request);
	engine->waiting++;
}

unsigned io_in_flight(const struct io_engine *engine)
{
	return engine->pushed + engine->waiting;
}

const char *io_engine_name(const struct io_engine *engine)
{
	return engine->ops->name;
}

/* Wait until the kernel has let go of all buffers. Return: whether it has. */
static bool drain(struct io_engine *engine)
{
	uint64_t deadline = util_now_ms() + CLOSE_MS;
	struct io_completion completions[REAP_BATCH];

	while (engine->pushed) {
		struct pollfd poll_fd = { .fd = engine->eventfd, .events = POLLIN };
		eventfd_t ignored;
		int count;

		/* What is still unsubmitted cannot complete; errors show as no progress. */
		(void)engine->ops->submit(engine->context);
		count = engine->ops->reap(engine->context, completions, REAP_BATCH);
		if (count > 0) {
			engine->pushed -= (unsigned)count;
			continue;
		}
		if (util_now_ms() >= deadline)
			return false;
		if (poll(&poll_fd, 1, 100) > 0)
			(void)eventfd_read(engine->eventfd, &ignored);
	}
	return true;
}

void io_engine_free(struct io_engine *engine)
{
	if (!engine || engine->freed)
		return;
	engine->freed = true;
	engine->source = sd_event_source_disable_unref(engine->source);
	if (drain(engine)) {
		engine->ops->close(engine->context);
		close(engine->eventfd);
	} else {
		/* The kernel may still write into the buffers: keeping the ring is the lesser evil.
		 */
		log_error("disk I/O: %u requests did not end within %u s; their disk hangs",
			  engine->pushed, CLOSE_MS / 1000);
	}
	if (!engine->busy)
		free(engine);
}
