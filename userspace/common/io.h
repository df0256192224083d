/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io: asynchronous disk I/O on an sd-event loop, through a small table of
 * functions (io_ops) with two engines, io_uring and libaio, and a third in the tests that fails,
 * shortens, tears and reorders.
 *
 * A request transfers all of its bytes or fails: short transfers are continued
 * here, and only here. Requests belong to the caller and are linked through, so the
 * engine allocates nothing per request and its queue is bounded by the caller's own
 * pool. Requests are submitted in a batch when the event loop is about to wait.
 */
#ifndef REPROTECT_IO_H
#define REPROTECT_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_SYNC,    /* fdatasync */
	IO_ZERO,    /* make [offset, offset + bytes) read as zeros (a hole where there can be one, else FALLOC_FL_ZERO_RANGE, else zeros written) */
};

/**
 * struct io_request - one transfer, owned by the caller until @done
 * @op, @fd, @data, @bytes, @offset: what to do. With O_DIRECT the caller aligns.
 * @buffer: index of the registered buffer that holds @data, or -1
 * @done: called from the loop: @result 0 all done, else negative errno (reading past
 *	the end is -ENODATA). May submit the same request again.
 * @user: the caller's
 */
struct io_request {
	enum io_op op;
	int fd;
	int buffer;
	void *data;
	uint64_t bytes;
	uint64_t offset;
	void (*done)(struct io_request *request, int result);
	void *user;
	/* the engine's */
	uint64_t moved;
	struct io_request *next;
	enum io_zero_way {
		IO_ZERO_RANGE,
		IO_ZERO_PUNCH,
		IO_ZERO_WRITE
	} zero_way;
	unsigned retries; /* EAGAIN and EINTR since the last byte */
};

struct io_engine;

/**
 * struct io_ops - an engine. @context is what open() made.
 * @open: for @depth requests in flight, completions signalled through @eventfd
 * @hold: see io_engine_hold(); NULL where the end of a process waits for its I/O
 * @push: hand over the rest of a request (from request->moved); -EAGAIN when full
 * @submit: tell the kernel about what was pushed
 * @reap: take up to @max completions; results as the system calls return them
 */
struct io_completion {
	struct io_request *request;
	int64_t result;
};

struct io_ops {
	const char *name;
	int (*open)(unsigned depth, int eventfd, void **context);
	int (*register_buffers)(void *context, const struct iovec *iov, unsigned count);
	int (*hold)(void *context, int fd);
	int (*push)(void *context, struct io_request *request);
	int (*submit)(void *context);
	int (*reap)(void *context, struct io_completion *completions, unsigned max);
	void (*close)(void *context);
};

extern const struct io_ops io_uring_ops;
extern const struct io_ops io_libaio_ops;

/**
 * io_engine_new - start an engine
 * @ops: which, or NULL: io_uring, and where the kernel refuses it (seccomp,
 *	io_uring_disabled, ENOSYS, EPERM) libaio, said in the log
 * @depth: requests in flight at most; more are kept in line
 */
int io_engine_new(struct io_engine **engine, sd_event *event, const struct io_ops *ops,
		  unsigned depth);
/** io_engine_register - register buffers (O_DIRECT capable); failing to is logged, not an error */
int io_engine_register(struct io_engine *engine, const struct iovec *iov, unsigned count);
/**
 * io_engine_hold - keep the file of @fd open until the kernel has finished every request, also when
 * the process is killed: a lock on it (lock.h) then outlives the process as long as its writes do
 */
int io_engine_hold(struct io_engine *engine, int fd);
/** io_engine_submit - put @request in line; its @done is called later, from the loop */
void io_engine_submit(struct io_engine *engine, struct io_request *request);

/** io_submit - the same; inline, because libaio exports a function of this name */
static inline void io_submit(struct io_engine *engine, struct io_request *request)
{
	io_engine_submit(engine, request);
}

unsigned io_in_flight(const struct io_engine *engine); /* submitted or in line */
const char *io_engine_name(const struct io_engine *engine);
/** io_engine_free - waits for what is in flight (their done is not called), then frees */
void io_engine_free(struct io_engine *engine);

/* For engines: what push() has to do for a request, here so that all agree. */

/** io_step_bytes - how many bytes of @request the next push transfers */
uint64_t io_step_bytes(const struct io_request *request);
/** io_step_data - from where or to where; zeros for IO_ZERO_WRITE (NULL: no memory) */
void *io_step_data(const struct io_request *request);

/** io_buffer_alloc - @bytes of memory aligned for O_DIRECT (4096), freed with free() */
void *io_buffer_alloc(size_t bytes);

#endif
