/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io_libaio: the engine for kernels on which io_uring is switched off. Called by io.c only.
 * Reads and writes go through libaio. It has no fallocate(), and not every file has an
 * asynchronous fsync, so IO_ZERO and IO_SYNC are done by one helper thread, in order.
 */
#define io_submit reprotect_io_submit /* libaio has the name, too */
#include "io.h"
#undef io_submit
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

struct aio {
	io_context_t aio;
	int eventfd;
	unsigned depth;
	/* The loop's alone. */
	struct iocb *blocks, **free_blocks, **pushed;
	unsigned free_count, pushed_count;
	struct io_completion *refused; /* that io_submit() would not take */
	unsigned refused_count;
	/* Between the loop and the helper. */
	pthread_t helper;
	pthread_mutex_t lock;
	pthread_cond_t work;
	bool stop;			 /* lock */
	struct io_request **queue;	 /* lock; ring of @depth */
	unsigned queue_head, queue_used; /* lock */
	struct io_completion *finished;	 /* lock; at most @depth */
	unsigned finished_count;	 /* lock */
	unsigned helper_count;		 /* the loop's: with the helper or finished */
};

static int do_slow(const struct io_request *request)
{
	uint64_t offset = request->offset + request->moved;
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	if (request->op == IO_SYNC)
		return fdatasync(request->fd) ? -errno : 0;
	if (request->zero_way == IO_ZERO_RANGE)
		mode = FALLOC_FL_ZERO_RANGE;
	return fallocate(request->fd, mode, (off_t)offset, (off_t)io_step_bytes(request)) ?
		       -errno : 0;
}

static void *helper_main(void *user)
{
	struct aio *aio = user;

	pthread_mutex_lock(&aio->lock);
	for (;;) {
		struct io_completion done;

		while (!aio->queue_used && !aio->stop)
			pthread_cond_wait(&aio->work, &aio->lock);
		if (!aio->queue_used)
			break;
		done.request = aio->queue[aio->queue_head];
		aio->queue_head = (aio->queue_head + 1) % aio->depth;
		aio->queue_used--;
		pthread_mutex_unlock(&aio->lock);
		done.result = do_slow(done.request);
		pthread_mutex_lock(&aio->lock);
		aio->finished[aio->finished_count++] = done;
		/* Fails only when the counter is at its top, and then the loop is awake. */
		(void)eventfd_write(aio->eventfd, 1);
	}
	pthread_mutex_unlock(&aio->lock);
	return NULL;
}

static void free_memory(struct aio *aio)
{
	free(aio->blocks);
	free(aio->free_blocks);
	free(aio->pushed);
	free(aio->refused);
	free(aio->queue);
	free(aio->finished);
	free(aio);
}

static struct aio *new_memory(unsigned depth, int eventfd)
{
	struct aio *aio = calloc(1, sizeof(*aio));

	if (!aio)
		return NULL;
	aio->eventfd = eventfd;
	aio->depth = depth;
	aio->blocks = calloc(depth, sizeof(*aio->blocks));
	aio->free_blocks = calloc(depth, sizeof(struct iocb *));
	aio->pushed = calloc(depth, sizeof(struct iocb *));
	aio->refused = calloc(depth, sizeof(*aio->refused));
	aio->queue = calloc(depth, sizeof(struct io_request *));
	aio->finished = calloc(depth, sizeof(*aio->finished));
	if (!aio->blocks || !aio->free_blocks || !aio->pushed || !aio->refused || !aio->queue ||
	    !aio->finished) {
		free_memory(aio);
		return NULL;
	}
	for (unsigned i = 0; i < depth; i++)
		aio->free_blocks[aio->free_count++] = &aio->blocks[i];
	pthread_mutex_init(&aio->lock, NULL);
	pthread_cond_init(&aio->work, NULL);
	return aio;
}

static int start_helper(struct aio *aio)
{
	sigset_t all, before;
	int error;

	/* Signals belong to the loop. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&aio->helper, NULL, helper_main, aio);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -error;
}

static int aio_open(unsigned depth, int eventfd, void **context)
{
	struct aio *aio = new_memory(depth, eventfd);
	int error;

	if (!aio)
		return -ENOMEM;
	error = io_setup((int)depth, &aio->aio); /* returns a negative errno */
	if (error) {
		free_memory(aio);
		return error;
	}
	error = start_helper(aio);
	if (error) {
		io_destroy(aio->aio);
		free_memory(aio);
		return error;
	}
	*context = aio;
	return 0;
}

static int push_helper(struct aio *aio, struct io_request *request)
{
	if (aio->helper_count == aio->depth)
		return -EAGAIN;
	aio->helper_count++;
	pthread_mutex_lock(&aio->lock);
	aio->queue[(aio->queue_head + aio->queue_used++) % aio->depth] = request;
	pthread_cond_signal(&aio->work);
	pthread_mutex_unlock(&aio->lock);
	return 0;
}

static int aio_push(void *context, struct io_request *request)
{
	struct aio *aio = context;
	uint64_t bytes = io_step_bytes(request);
	long long offset = (long long)(request->offset + request->moved);
	struct iocb *block;
	void *data;

	if (request->op == IO_SYNC ||
	    (request->op == IO_ZERO && request->zero_way != IO_ZERO_WRITE))
		return push_helper(aio, request);
	data = io_step_data(request);
	if (!data)
		return -ENOMEM;
	if (!aio->free_count)
		return -EAGAIN;
	block = aio->free_blocks[--aio->free_count];
	if (request->op == IO_READ)
		io_prep_pread(block, request->fd, data, bytes, offset);
	else
		io_prep_pwrite(block, request->fd, data, bytes, offset);
	io_set_eventfd(block, aio->eventfd);
	block->data = request;
	aio->pushed[aio->pushed_count++] = block;
	return 0;
}

/* io_submit() stops at the first block that it refuses; that one fails, the rest goes on. */
static int aio_submit(void *context)
{
	struct aio *aio = context;
	unsigned done = 0;
	int result = 0;

	while (done < aio->pushed_count) {
		result = io_submit(aio->aio, (long)(aio->pushed_count - done), aio->pushed + done);
		if (result > 0) {
			done += (unsigned)result;
			result = 0;
			continue;
		}
		if (result == -EINTR)
			continue;
		if (result == 0 || result == -EAGAIN) {
			result = -EAGAIN;
			break;
		}
		aio->refused[aio->refused_count].request = aio->pushed[done]->data;
		aio->refused[aio->refused_count++].result = result;
		aio->free_blocks[aio->free_count++] = aio->pushed[done++];
		(void)eventfd_write(aio->eventfd, 1); /* see helper_main() */
		result = 0;
	}
	for (unsigned i = done; i < aio->pushed_count; i++)
		aio->pushed[i - done] = aio->pushed[i];
	aio->pushed_count -= done;
	return result;
}

static int aio_reap(void *context, struct io_completion *completions, unsigned max)
{
	struct timespec at_once = { 0 };
	struct aio *aio = context;
	struct io_event events[64];
	unsigned count = 0;
	int got;

	while (aio->refused_count && count < max)
		completions[count++] = aio->refused[--aio->refused_count];
	pthread_mutex_lock(&aio->lock);
	while (aio->finished_count && count < max) {
		completions[count++] = aio->finished[--aio->finished_count];
		aio->helper_count--;
	}
	pthread_mutex_unlock(&aio->lock);
	if (count == max)
		return (int)count;
	if (max - count > ARRAY_LENGTH(events))
		max = count + (unsigned)ARRAY_LENGTH(events);
	got = io_getevents(aio->aio, 0, (long)(max - count), events, &at_once);
	if (got < 0 && got != -EINTR && !count)
		return got;
	for (int i = 0; i < got; i++) {
		struct iocb *block = events[i].obj;

		completions[count].request = block->data;
		completions[count++].result = (int64_t)events[i].res;
		aio->free_blocks[aio->free_count++] = block;
	}
	return (int)count;
}

static void aio_close(void *context)
{
	struct aio *aio = context;

	pthread_mutex_lock(&aio->lock);
	aio->stop = true;
	pthread_cond_signal(&aio->work);
	pthread_mutex_unlock(&aio->lock);
	pthread_join(aio->helper, NULL);
	io_destroy(aio->aio);
	pthread_mutex_destroy(&aio->lock);
	pthread_cond_destroy(&aio->work);
	free_memory(aio);
}

const struct io_ops io_libaio_ops = {
	.name = "libaio",
	.open = aio_open,
	.push = aio_push,
	.submit = aio_submit,
	.reap = aio_reap,
	.close = aio_close,
};
