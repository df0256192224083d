// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main: the command line of reprotect-process-server, signals, and the loop.
 *
 * Exit codes: 0 ended as asked, 1 could not start or the loop failed, 2 wrong command line or configuration.
 */
#include "server.h"
#include "log.h"
#include "conf.h"
#include "util.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <systemd/sd-daemon.h>

const char *argp_program_version = SERVER_PROGRAM " " REPROTECT_VERSION;

enum { KEY_LISTEN = 256, KEY_TARGET, KEY_SPOOL, KEY_SPOOL_BYTES, KEY_CONTROL, KEY_CHECK, KEY_FOREGROUND, KEY_DEBUG };

struct arguments {
	const char *config, *listen, *target, *spool, *spool_bytes, *control;
	bool check, debug;
};

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "configuration (default: none, every key at its default)", 0 },
	{ "check-config", KEY_CHECK, NULL, 0, "say whether the configuration is good, and exit", 0 },
	{ "foreground", KEY_FOREGROUND, NULL, 0, "accepted; the program never detaches", 0 },
	{ "listen", KEY_LISTEN, "HOST:PORT", 0, "address for agents, instead of the configuration's", 0 },
	{ "master-target", KEY_TARGET, "HOST:PORT", 0, "address of the master target", 0 },
	{ "spool", KEY_SPOOL, "DIR", 0, "spool directory", 0 },
	{ "spool-bytes", KEY_SPOOL_BYTES, "BYTES", 0, "quota of the spool, with K, M, G, T", 0 },
	{ "control", KEY_CONTROL, "SOCKET", 0, "control socket", 0 },
	{ "debug", KEY_DEBUG, NULL, 0, "log more", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case 'c': a->config = arg; break;
	case KEY_CHECK: a->check = true; break;
	case KEY_FOREGROUND: break;
	case KEY_LISTEN: a->listen = arg; break;
	case KEY_TARGET: a->target = arg; break;
	case KEY_SPOOL: a->spool = arg; break;
	case KEY_SPOOL_BYTES: a->spool_bytes = arg; break;
	case KEY_CONTROL: a->control = arg; break;
	case KEY_DEBUG: a->debug = true; break;
	case ARGP_KEY_ARG: argp_error(state, "%s: no such argument", arg); break;
	default: return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int replace(char **value, const char *with)
{
	char *copy;

	if (!with)
		return 0;
	copy = strdup(with);
	if (!copy)
		return -ENOMEM;
	free(*value);
	*value = copy;
	return 0;
}

static int configure(struct config *config, const struct arguments *a, char *error, size_t error_bytes)
{
	int r = config_load(config, a->config, error, error_bytes);

	if (r)
		return r;
	r = replace(&config->listen, a->listen);
	if (!r)
		r = replace(&config->master_target, a->target);
	if (!r)
		r = replace(&config->spool, a->spool);
	if (!r)
		r = replace(&config->control, a->control);
	if (r) {
		snprintf(error, error_bytes, "out of memory");
		return r;
	}
	if (a->spool_bytes && (conf_parse_bytes(a->spool_bytes, &config->spool_bytes) || config->spool_bytes < 32 * MIB)) {
		snprintf(error, error_bytes, "--spool-bytes %s: not a size of at least 32M", a->spool_bytes);
		return -EINVAL;
	}
	return config_check(config, a->config ? a->config : "command line", error, error_bytes);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *user)
{
	(void)user;
	log_notice("signal %u: ending", info->ssi_signo);
	return sd_event_exit(sd_event_source_get_event(source), 0);
}

static int run(struct server *server)
{
	sd_event *event = NULL;
	char error[1024] = "";
	sigset_t signals;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	signal(SIGPIPE, SIG_IGN);
	r = sigprocmask(SIG_BLOCK, &signals, NULL) < 0 ? -errno : sd_event_default(&event);
	if (r >= 0)
		r = sd_event_add_signal(event, NULL, SIGTERM, on_signal, NULL);
	if (r >= 0)
		r = sd_event_add_signal(event, NULL, SIGINT, on_signal, NULL);
	if (r < 0)
		log_error("cannot set up the event loop: %s", strerror(-r));
	if (r >= 0) {
		r = server_start(server, event, error, sizeof(error));
		if (r < 0)
			log_error("%s", error);
	}
	if (r >= 0) {
		r = sd_event_set_watchdog(event, true);
		if (r < 0)
			log_warning("no watchdog: %s", strerror(-r));
		sd_notify(0, "READY=1");
		r = sd_event_loop(event);
		if (r < 0)
			log_error("the event loop failed: %s", strerror(-r));
		sd_notify(0, "STOPPING=1");
	}
	server_stop(server);
	sd_event_unref(event);
	return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct argp argp = { options, parse, NULL,
					  "The process server of reprotect: takes epochs of changed blocks from agents, "
					  "keeps them in a durable spool, and forwards them to the master target.",
					  NULL, NULL, NULL };
	struct arguments arguments = { 0 };
	static struct server server = { .store = { .dirfd = -1, .lockfd = -1 } };
	char error[1024] = "";
	int r;

	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	log_init(SERVER_PROGRAM, arguments.debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	r = configure(&server.config, &arguments, error, sizeof(error));
	if (r) {
		log_error("%s", error);
		return 2;
	}
	if (arguments.check) {
		printf("the configuration is good\n");
		config_free(&server.config);
		return 0;
	}
	return run(&server);
}
