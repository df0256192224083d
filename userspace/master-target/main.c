// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reprotect-master-target: the daemon that applies epochs to target disks. This file: arguments,
 * what is opened once, the event loop, and a clean end.
 *
 * One thread, one sd-event loop. A kill at any instruction loses nothing: what counts is in
 * the targets and in the state directory before it is acknowledged.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "config.h"
#include "control.h"
#include "lock.h"
#include "log.h"
#include "machine.h"
#include "session.h"
#include "status.h"
#include "thin.h"
#include "util.h"

#define IO_DEPTH 256u
#define TICK_US 500000u
#define END_MS 10000u
#define LOCK_MS 60000u /* for the writes of a master target that was killed */

const char *argp_program_version = "reprotect-master-target " REPROTECT_VERSION;

struct arguments {
	const char *config;
	bool check, verbose;
};

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "Configuration (default: " CONFIG_PATH_DEFAULT ")", 0 },
	{ "check-config", 'C', NULL, 0, "Check the configuration and exit", 0 },
	{ "verbose", 'v', NULL, 0, "Log debug messages", 0 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'c':
		arguments->config = value;
		return 0;
	case 'C':
		arguments->check = true;
		return 0;
	case 'v':
		arguments->verbose = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument: %s", value);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "Apply the epochs of protected machines to target disks.\v"
	       "Exit status: 0 a regular end, 1 it could not start or go on, 64 wrong usage, "
	       "78 the configuration is wrong.",
};

/* One instance for each state directory. The descriptor stays open until the end. */
static int lock_state(const struct config *config)
{
	CLEANUP_FREE char *path = NULL;
	int r = util_mkdirs(config->state_dir);
	pid_t owner = 0;

	if (r) {
		log_error("state directory %s: cannot create: %s (check its parent and permissions)",
			  config->state_dir, strerror(-r));
		return r;
	}
	if (asprintf(&path, "%s/lock", config->state_dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0) {
		r = -errno;
		log_error("state directory %s: cannot open its lock file: %s (check permissions)",
			  config->state_dir, strerror(-r));
		return r;
	}
	r = lock_take(fd, "state directory", LOCK_MS, &owner);
	if (r) {
		log_error("state directory %s: %s (process %d; %s)", config->state_dir,
			  r == -EWOULDBLOCK ? "another master target uses it" :
			  r == -ETIMEDOUT ? "a master target that was killed still has disk writes under way" :
					    strerror(-r),
			  (int)owner,
			  r == -ETIMEDOUT ? "see dmesg for the target disks, and start again when they are done" :
					    "stop that one, or give each its own state directory");
		close(fd);
		return r;
	}
	return fd;
}

static int on_tick(sd_event_source *source, uint64_t usec, void *user)
{
	struct server *server = user;
	unsigned connected = 0, failing = 0, count = 0;
	struct machine *next;

	(void)usec;
	for (struct machine *m = server->machines; m; m = next) {
		next = m->next;
		machine_tick(m);
		count++;
		connected += m->live != NULL;
		failing += m->failing;
	}
	session_tick(server);
	thin_tick(server->thin);
	pool_kick(server->pool);
	sd_notifyf(0, "STATUS=%u machines, %u connected, %u with errors", count, connected, failing);
	int r = sd_event_source_set_time_relative(source, TICK_US);

	return r < 0 ? r : sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* Not sd_event_exit(): the loop is still wanted to let writes end. */
static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *user)
{
	struct server *server = user;

	(void)source;
	log_info("%s: ending", info->ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
	server->ending = true;
	return 0;
}

static bool quiet(const struct server *server)
{
	for (const struct machine *m = server->machines; m; m = m->next)
		if (!apply_quiet(&m->apply) || !job_quiet(m) || !undo_quiet(&m->undo))
			return false;
	return true;
}

/* Let what is in flight end, but not for ever: a hung disk must not hold up a shutdown. */
static void finish(struct server *server)
{
	uint64_t until = util_now_ms() + END_MS;

	conn_listener_close(server->listener);
	server->listener = NULL;
	sessions_close(server);
	for (struct machine *m = server->machines; m; m = m->next)
		job_stop(m);
	while (!quiet(server) && util_now_ms() < until)
		if (sd_event_run(server->event, 100000) < 0)
			break;
	if (!quiet(server))
		log_warning("some targets have not completed their writes within %u s; ending anyway (nothing of "
			    "that was acknowledged)",
			    END_MS / 1000);
}

static int open_parts(struct server *server, struct control **control)
{
	static const struct io_ops *const engines[] = { NULL, &io_uring_ops, &io_libaio_ops };
	int r = io_engine_new(&server->io, server->event, engines[server->config.engine], IO_DEPTH);

	if (!r)
		r = io_engine_hold(server->io, server->lock);
	if (r) {
		log_error("disk I/O: cannot start: %s (try engine = libaio)", strerror(-r));
		return r;
	}
	r = pool_new(&server->pool, server->io, server->config.buffer_bytes);
	if (r) {
		log_error("buffers: cannot allocate %" PRIu64 " bytes (lower buffers in the configuration)",
			  server->config.buffer_bytes);
		return r;
	}
	r = thin_new(&server->thin, server);
	if (!r)
		r = machines_load(server);
	if (r) {
		log_error("state directory %s: cannot read: %s (check its file system)",
			  server->config.state_dir, strerror(-r));
		return r;
	}
	r = control_new(control, server->event, server->config.control, status_handle, server);
	if (r) {
		log_error("control socket %s: cannot open: %s (%s)", server->config.control, strerror(-r),
			  r == -EADDRINUSE ? "another instance answers there: stop it" :
					     "check its directory and permissions");
		return r;
	}
	r = conn_listen(&server->listener, server->event, &transport_tcp, server->config.listen,
			session_accepted, server);
	if (r) {
		log_error("listen = %s: cannot listen: %s (%s)", server->config.listen, strerror(-r),
			  r == -EACCES ? "only loopback addresses are allowed for now" :
					 "another program may use the port: ss -ltnp");
		return r;
	}
	return 0;
}

static int set_up_loop(struct server *server)
{
	sigset_t signals;
	int r = sd_event_default(&server->event);

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGCHLD);
	if (r >= 0 && sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
		r = -errno;
	if (r >= 0)
		r = sd_event_add_signal(server->event, NULL, SIGTERM, on_signal, server);
	if (r >= 0)
		r = sd_event_add_signal(server->event, NULL, SIGINT, on_signal, server);
	if (r >= 0)
		r = sd_event_add_time_relative(server->event, &server->tick, CLOCK_BOOTTIME, TICK_US, 50000,
					       on_tick, server);
	if (r >= 0)
		r = sd_event_set_watchdog(server->event, true);
	if (r < 0)
		log_error("event loop: cannot set up: %s", strerror(-r));
	return r < 0 ? r : 0;
}

static int serve(struct server *server)
{
	struct control *control = NULL;
	int r = set_up_loop(server);

	if (!r)
		r = open_parts(server, &control);
	if (!r) {
		log_notice("version " REPROTECT_VERSION ", listening on %s, state in %s, disk I/O by %s",
			   conn_listener_name(server->listener), server->config.state_dir,
			   io_engine_name(server->io));
		sd_notify(0, "READY=1");
		while (r >= 0 && !server->ending)
			r = sd_event_run(server->event, UINT64_MAX);
		if (r < 0)
			log_error("event loop: failed: %s", strerror(-r));
		sd_notify(0, "STOPPING=1");
		control_free(control);
		control = NULL;
		finish(server);
	}
	control_free(control);
	sd_event_source_disable_unref(server->tick);
	if (server->io)
		io_engine_free(server->io);
	machines_free(server);
	thin_free(server->thin);
	pool_free(server->pool);
	sd_event_unref(server->event);
	return r;
}

int main(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	struct server server = { 0 };
	char error[600];

	if (argc > 1 && !strcmp(argv[1], "--merge")) { /* what the daemon starts, thin.c */
		log_init("reprotect-master-target", LOG_LEVEL_INFO);
		return thin_child(argc - 2, argv + 2);
	}
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	log_init("reprotect-master-target", arguments.verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	if (!arguments.config && access(CONFIG_PATH_DEFAULT, F_OK) == 0)
		arguments.config = CONFIG_PATH_DEFAULT;
	if (config_load(&server.config, arguments.config, error, sizeof(error))) {
		log_error("%s", error);
		return 78;
	}
	if (arguments.check) {
		printf("%s: good\n", arguments.config ? arguments.config : "built-in defaults");
		config_free(&server.config);
		return 0;
	}
	/* What a large epoch or a rollback took goes back to the system when it is over. */
	mallopt(M_MMAP_THRESHOLD, (int)MIB);
	umask(077);
	signal(SIGPIPE, SIG_IGN);
	server.lock = lock_state(&server.config);
	int r = server.lock < 0 ? server.lock : serve(&server);

	if (server.lock >= 0)
		close(server.lock);
	config_free(&server.config);
	return r < 0 ? 1 : 0;
}
