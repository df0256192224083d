// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nlfuzz - netlink messages that no honest program sends, to the family blkcbt.
 *
 *   nlfuzz strict TRACKED SPARE
 *	Each command with each attribute, malformed in one way at a time: wrong
 *	length, type, nest, missing, foreign, unknown, oversize, given twice; wrong
 *	headers; numbers that cannot be. Each must be refused, with an errno that
 *	fits, and GET must read byte for byte as before. TRACKED is attached and
 *	idle; SPARE is not attached.
 *
 *   nlfuzz random SEED COUNT SECONDS PROCESSES DISK...
 *	Well-formed messages for these disks with random mutations, and what stands
 *	around them: full sockets, character devices, writes. Each process sends
 *	COUNT messages (0: no limit), for SECONDS at most (0: no limit); what it
 *	sends depends on SEED and its number alone.
 *
 * Exit status 0 when all was as it should be. What the kernel thinks of it is on
 * the console.
 */
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>

#include "nlmsg.h"

#define UNKNOWN	  4	/* attribute numbers behind the last that are tried */
#define MAX_ATTRS 64

/* What the header says an attribute is. */
enum kind { KIND_NONE, KIND_U32, KIND_U64, KIND_FLAG, KIND_STRING, KIND_NEST };

static const enum kind kinds[BLKCBT_A_MAX + 1] = {
	[BLKCBT_A_MODULE_VERSION] = KIND_STRING, [BLKCBT_A_GATE_MODE] = KIND_U32,
	[BLKCBT_A_GATE_REASON] = KIND_STRING, [BLKCBT_A_FAULTS] = KIND_FLAG,
	[BLKCBT_A_DISK] = KIND_NEST, [BLKCBT_A_MAJOR] = KIND_U32, [BLKCBT_A_MINOR] = KIND_U32,
	[BLKCBT_A_NAME] = KIND_STRING, [BLKCBT_A_INDEX] = KIND_U32,
	[BLKCBT_A_GRANULE_BYTES] = KIND_U32, [BLKCBT_A_SIZE_BYTES] = KIND_U64,
	[BLKCBT_A_FLAGS] = KIND_U32, [BLKCBT_A_FORCE] = KIND_FLAG, [BLKCBT_A_EPOCH] = KIND_U64,
	[BLKCBT_A_EPOCH_STATE] = KIND_U32, [BLKCBT_A_EPOCH_COMMITTED] = KIND_U64,
	[BLKCBT_A_CUT_NS] = KIND_U64, [BLKCBT_A_FROM_BYTES] = KIND_U64,
	[BLKCBT_A_TO_BYTES] = KIND_U64, [BLKCBT_A_DIRTY_BYTES] = KIND_U64,
	[BLKCBT_A_OPEN_BYTES] = KIND_U64, [BLKCBT_A_MAP_BYTES] = KIND_U64,
	[BLKCBT_A_MAP_FALLBACKS] = KIND_U64, [BLKCBT_A_ESCAPES] = KIND_U64,
	[BLKCBT_A_LATE] = KIND_U64, [BLKCBT_A_PASSTHROUGH] = KIND_U64,
	[BLKCBT_A_PARKED] = KIND_U64, [BLKCBT_A_INFLIGHT] = KIND_U64, [BLKCBT_A_EVENT] = KIND_U32,
	[BLKCBT_A_ID] = KIND_U64, [BLKCBT_A_OBSERVERS] = KIND_U32,
};

static size_t length_of(unsigned int type)
{
	switch (type <= BLKCBT_A_MAX ? kinds[type] : KIND_NONE) {
	case KIND_U32: return 4;
	case KIND_U64: return 8;
	case KIND_STRING: return 5;
	default: return 0;
	}
}

/**
 * struct attr - one attribute before it is bytes
 * @type: with flags
 * @data: its payload, unless it is a nest
 * @len: bytes of it
 * @says: what its header says its length is, -1: the truth
 * @in: the attributes of a nest, else NULL
 */
struct attr {
	unsigned int type;
	const void *data;
	size_t len;
	int says;
	struct list *in;
};

struct list {
	unsigned int n;
	struct attr a[MAX_ATTRS];
	unsigned int tail;	/* bytes of garbage behind the last */
};

/**
 * struct request - a message before it is bytes
 * @cmd: command
 * @flags: of the netlink header, besides NLM_F_REQUEST
 * @top: its attributes
 * @in: those of its first nest; @more: of another
 */
struct request {
	unsigned int cmd;
	unsigned int flags;
	struct list top;
	struct list in;
	struct list more;
};

static unsigned char junk[60000];
static struct nlmsg out;

/* Payloads that outlive the functions which name them. */
static uint64_t *number(uint64_t n)
{
	static uint64_t kept[256];
	static unsigned int at;

	at = (at + 1) % 256;
	kept[at] = n;
	return &kept[at];
}

static struct attr *add(struct list *list, unsigned int type, const void *data, size_t len)
{
	struct attr *a = &list->a[list->n < MAX_ATTRS ? list->n++ : MAX_ATTRS - 1];

	*a = (struct attr){ .type = type, .data = data, .len = len, .says = -1 };
	return a;
}

static void add_number(struct list *list, unsigned int type, uint64_t n)
{
	add(list, type, number(n), length_of(type));
}

static void add_dev(struct list *list, dev_t dev)
{
	add_number(list, BLKCBT_A_MAJOR, major(dev));
	add_number(list, BLKCBT_A_MINOR, minor(dev));
}

static struct attr *find(struct list *list, unsigned int type)
{
	for (unsigned int i = 0; i < list->n; i++)
		if ((list->a[i].type & NLA_TYPE_MASK) == type)
			return &list->a[i];
	return NULL;
}

static void drop(struct list *list, struct attr *a)
{
	memmove(a, a + 1, (size_t)(&list->a[list->n] - (a + 1)) * sizeof(*a));
	list->n--;
}

static void put_list(struct nlmsg *m, const struct list *list, unsigned int depth)
{
	for (unsigned int i = 0; i < list->n; i++) {
		const struct attr *a = &list->a[i];
		size_t at = nl_nest(m, a->type);

		if (a->in && depth < 8)
			put_list(m, a->in, depth + 1);
		else
			nl_append(m, a->data, a->len);
		nl_nest_end(m, at);
		/* a nest is as long as what is in it, a value as long as it was given */
		if (!a->in || a->says >= 0) {
			uint16_t len = (uint16_t)(a->says >= 0 ? (unsigned int)a->says :
						  a->len + sizeof(struct nlattr));

			memcpy(m->b + at, &len, sizeof(len));
		}
	}
	if (list->tail && m->len + list->tail < NLMSG_MAX) {
		memset(m->b + m->len, 0xff, list->tail);
		m->len += list->tail;
	}
	m->hdr.nlmsg_len = (uint32_t)m->len;
}

static void make(struct nlmsg *m, const struct request *r)
{
	nl_begin(m, nl_family, (int)r->cmd, (int)r->flags);
	put_list(m, &r->top, 0);
}

/* Attributes that a command takes, by header; @nested: in its disks. */
static bool takes(unsigned int cmd, bool nested, unsigned int type)
{
	bool dev = type == BLKCBT_A_MAJOR || type == BLKCBT_A_MINOR;
	bool range = type == BLKCBT_A_FROM_BYTES || type == BLKCBT_A_TO_BYTES;

	switch (cmd) {
	case BLKCBT_CMD_ATTACH: return dev || type == BLKCBT_A_GRANULE_BYTES;
	case BLKCBT_CMD_DETACH: return dev || type == BLKCBT_A_FORCE;
	case BLKCBT_CMD_GET: return dev;
	case BLKCBT_CMD_MARK: return dev || range;
	case BLKCBT_CMD_COMMIT:
		if (nested)
			return dev || range;
		return type == BLKCBT_A_EPOCH || type == BLKCBT_A_DISK;
	case BLKCBT_CMD_CUT:
	case BLKCBT_CMD_ABORT:
		if (nested)
			return dev;
		return type == BLKCBT_A_EPOCH || type == BLKCBT_A_DISK;
	default: return false;
	}
}

static bool needs(unsigned int type)
{
	return type == BLKCBT_A_MAJOR || type == BLKCBT_A_MINOR || type == BLKCBT_A_EPOCH ||
	       type == BLKCBT_A_DISK;
}

/*
 * strict
 */

static struct nlsock control;
static unsigned int refused, wrong;
static dev_t tracked, spare;
static uint64_t epoch_open, epoch_next;
static char what[160];

/* What would succeed as it is. */
static void honest(struct request *r, unsigned int cmd)
{
	memset(r, 0, sizeof(*r));
	r->cmd = cmd;
	r->flags = NLM_F_ACK;
	switch (cmd) {
	case BLKCBT_CMD_ATTACH:
		add_dev(&r->top, spare);
		add_number(&r->top, BLKCBT_A_GRANULE_BYTES, 8192);
		return;
	case BLKCBT_CMD_DETACH:
		add_dev(&r->top, tracked);
		add(&r->top, BLKCBT_A_FORCE, NULL, 0);
		return;
	case BLKCBT_CMD_GET:
		add_dev(&r->top, tracked);
		return;
	case BLKCBT_CMD_MARK:
		add_dev(&r->top, tracked);
		add_number(&r->top, BLKCBT_A_FROM_BYTES, 0);
		add_number(&r->top, BLKCBT_A_TO_BYTES, 1 << 20);
		return;
	case BLKCBT_CMD_CUT:
	case BLKCBT_CMD_COMMIT:
	case BLKCBT_CMD_ABORT:
		add_number(&r->top, BLKCBT_A_EPOCH, cmd == BLKCBT_CMD_CUT ? epoch_next : epoch_open);
		add_dev(&r->in, tracked);
		if (cmd == BLKCBT_CMD_COMMIT) {
			add_number(&r->in, BLKCBT_A_FROM_BYTES, 0);
			add_number(&r->in, BLKCBT_A_TO_BYTES, 1 << 20);
		}
		add(&r->top, BLKCBT_A_DISK | NLA_F_NESTED, NULL, 0)->in = &r->in;
		return;
	default:
		return;
	}
}

static int ask_dev(unsigned int cmd, dev_t dev)
{
	nl_begin(&out, nl_family, (int)cmd, NLM_F_ACK);
	nl_put_dev(&out, dev);
	return nl_ask(&control, &out);
}

static int ask_epoch(unsigned int cmd, uint64_t epoch)
{
	nl_begin(&out, nl_family, (int)cmd, NLM_F_ACK);
	nl_put_u64(&out, BLKCBT_A_EPOCH, epoch);
	nl_put_disk(&out, tracked);
	return nl_ask(&control, &out);
}

/* Everything that GET has to say of the tracked disk. */
static unsigned char before[1 << 16];
static size_t before_len;

static void remember(void)
{
	if (ask_dev(BLKCBT_CMD_GET, tracked))
		nl_die("the tracked disk is not tracked");
	memcpy(before, nl_payload, nl_payload_len);
	before_len = nl_payload_len;
}

static void complain(const char *how, int err)
{
	wrong++;
	printf("WRONG: %s: %s %d %s\n", what, how, err, nl_text);
}

/* @out was answered with @err: one of those that malformed messages get, or @also. */
static void judge(int err, int also)
{
	bool fits = err == EINVAL || err == ERANGE || err == EOPNOTSUPP || (also && err == also);

	if (fits)
		refused++;
	else
		complain(err ? "refused with an errno that does not fit:" : "accepted:", err);
	/* The kernel has no text for a command that there is not, and for what is too short to be one. */
	if (err && err != EOPNOTSUPP && out.hdr.nlmsg_len >= NLMSG_HDRLEN + GENL_HDRLEN && !nl_text[0])
		complain("refused without a text:", err);
	err = ask_dev(BLKCBT_CMD_GET, tracked);
	if (err || nl_payload_len != before_len || memcmp(nl_payload, before, before_len)) {
		complain("changed the disk's state:", err);
		remember();
	}
	err = ask_dev(BLKCBT_CMD_GET, spare);
	if (err != ENOENT)
		complain("attached the other disk:", err);
}

static void must_refuse(const struct request *r, int also)
{
	make(&out, r);
	judge(nl_ask(&control, &out), also);
}

#define WHAT(...) snprintf(what, sizeof(what), __VA_ARGS__)

/* One attribute at a time, on one level of a command. */
static void strict_attrs(unsigned int cmd, bool nested)
{
	static const size_t lengths[] = { 0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 255, 4096, 60000 };
	static unsigned char padded[sizeof(junk)];
	const char *where = nested ? "in its disk" : "at the top";
	struct request r;
	struct list *list = nested ? &r.in : &r.top;
	struct attr *a;

	for (unsigned int type = 0; type <= BLKCBT_A_MAX + UNKNOWN; type++) {
		size_t right = length_of(type);

		/* of no length, and right */
		if (cmd == BLKCBT_CMD_ATTACH && !nested && type == BLKCBT_A_STORE_AWAITED)
			continue;
		if (!takes(cmd, nested, type)) {
			honest(&r, cmd);
			a = add(list, type, junk, right);
			WHAT("command %u, foreign attribute %u %s", cmd, type, where);
			must_refuse(&r, 0);
			a->type |= NLA_F_NESTED;
			WHAT("command %u, foreign nest %u %s", cmd, type, where);
			must_refuse(&r, 0);
			continue;
		}
		if (needs(type)) {
			honest(&r, cmd);
			drop(list, find(list, type));
			WHAT("command %u, no attribute %u %s", cmd, type, where);
			must_refuse(&r, 0);
		}
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			/* a nest of junk is no nest, of length 0 names no disk */
			if (kinds[type] != KIND_NEST && lengths[i] == right)
				continue;
			honest(&r, cmd);
			a = find(list, type);
			/* what would be right, cut off or with zeroes behind it: its length alone is wrong */
			memset(padded, 0, sizeof(padded));
			if (!a->in && right)
				memcpy(padded, a->data, right < lengths[i] ? right : lengths[i]);
			a->data = a->in ? junk : padded;
			a->in = NULL;
			a->len = lengths[i];
			WHAT("command %u, attribute %u of %zu bytes %s", cmd, type, lengths[i], where);
			must_refuse(&r, 0);
		}
		honest(&r, cmd);
		find(list, type)->type ^= NLA_F_NESTED;
		WHAT("command %u, attribute %u with the nest's flag wrong %s", cmd, type, where);
		must_refuse(&r, 0);
		/* a second one that is malformed, behind one that is not */
		honest(&r, cmd);
		add(list, type, junk, right + 1);
		WHAT("command %u, attribute %u twice, malformed, %s", cmd, type, where);
		must_refuse(&r, 0);
		/* its header lies: shorter than a header, longer than the message */
		for (int says = 0; says < 4; says++) {
			honest(&r, cmd);
			a = add(list, type, junk, right);
			a->says = says;
			WHAT("command %u, attribute %u says it has %d bytes %s", cmd, type, says, where);
			must_refuse(&r, 0);
		}
		honest(&r, cmd);
		a = add(list, type, junk, right);
		a->says = (int)right + 40;
		WHAT("command %u, attribute %u says it is longer than the rest %s", cmd, type, where);
		must_refuse(&r, 0);
	}
	for (unsigned int tail = 1; tail < 4; tail++) {
		honest(&r, cmd);
		list->tail = tail;
		WHAT("command %u, %u bytes behind the last attribute %s", cmd, tail, where);
		must_refuse(&r, 0);
	}
}

static void strict_header(unsigned int cmd)
{
	struct genlmsghdr g;
	struct request r;

	honest(&r, cmd);
	WHAT("command %u, a reserved field", cmd);
	make(&out, &r);
	memcpy(&g, out.b + NLMSG_HDRLEN, sizeof(g));
	g.reserved = 1;
	memcpy(out.b + NLMSG_HDRLEN, &g, sizeof(g));
	judge(nl_ask(&control, &out), 0);

	for (unsigned int bit = NLM_F_ROOT >> 4; bit <= 0x8000; bit <<= 1) {
		honest(&r, cmd);
		r.flags |= bit;
		WHAT("command %u, netlink flag 0x%x", cmd, bit);
		must_refuse(&r, 0);
	}
	if (cmd != BLKCBT_CMD_GET) {
		honest(&r, cmd);
		r.flags |= NLM_F_DUMP;
		WHAT("command %u as a dump", cmd);
		must_refuse(&r, 0);
	}
	for (uint32_t len = NLMSG_HDRLEN; len < NLMSG_HDRLEN + GENL_HDRLEN; len++) {
		honest(&r, cmd);
		WHAT("command %u, a message of %u bytes", cmd, len);
		make(&out, &r);
		out.hdr.nlmsg_len = len;
		judge(nl_ask(&control, &out), 0);
	}
}

/* Well-formed, and not to be done. The last of two attributes is the one that counts. */
static void strict_values(unsigned int cmd)
{
	static const uint64_t granules[] = { 0, 1, 512, 2048, 4095, 4097, 12288, 2 << 20, 0xffffffff };
	struct request r;
	bool group = cmd == BLKCBT_CMD_CUT || cmd == BLKCBT_CMD_COMMIT || cmd == BLKCBT_CMD_ABORT;
	struct list *dev = group ? &r.in : &r.top;
	int absent = cmd == BLKCBT_CMD_ATTACH ? ENODEV : ENOENT;

	if (cmd == BLKCBT_CMD_INFO)
		return;
	for (unsigned int type = BLKCBT_A_MAJOR; type <= BLKCBT_A_MINOR; type++) {
		honest(&r, cmd);
		add_number(dev, type, 0xffffffff);
		WHAT("command %u, attribute %u twice, the last out of range", cmd, type);
		must_refuse(&r, absent);
		honest(&r, cmd);
		add_number(dev, type, type == BLKCBT_A_MAJOR ? 0xffe : 0xfffff);
		WHAT("command %u, attribute %u twice, the last of no disk", cmd, type);
		must_refuse(&r, absent);
	}
	if (cmd == BLKCBT_CMD_ATTACH) {
		for (size_t i = 0; i < sizeof(granules) / sizeof(granules[0]); i++) {
			honest(&r, cmd);
			add_number(&r.top, BLKCBT_A_GRANULE_BYTES, granules[i]);
			WHAT("attach, granule %llu", (unsigned long long)granules[i]);
			must_refuse(&r, 0);
		}
		honest(&r, cmd);
		add_dev(&r.top, tracked);
		WHAT("attach of a tracked disk");
		must_refuse(&r, EEXIST);
	}
	if (cmd == BLKCBT_CMD_MARK) {
		honest(&r, cmd);
		add_number(&r.top, BLKCBT_A_FROM_BYTES, UINT64_MAX);
		WHAT("mark behind the disk");
		must_refuse(&r, 0);
		honest(&r, cmd);
		add_number(&r.top, BLKCBT_A_TO_BYTES, 0);
		WHAT("mark of nothing");
		must_refuse(&r, 0);
	}
	if (!group)
		return;

	honest(&r, cmd);
	add_number(&r.top, BLKCBT_A_EPOCH, cmd == BLKCBT_CMD_CUT ? 0 : epoch_open + 1);
	WHAT("command %u, epoch twice, the last impossible", cmd);
	must_refuse(&r, ESRCH);
	if (cmd == BLKCBT_CMD_COMMIT) {
		honest(&r, cmd);
		add_number(&r.in, BLKCBT_A_FROM_BYTES, 2 << 20);
		WHAT("commit, a range that ends before it starts");
		must_refuse(&r, 0);
	}
	/* A second disk that cannot be: then nothing is done to the first. */
	for (int i = 0; i < 5; i++) {
		static const char *const second[] = { "again", "of another disk", "of no disk",
						      "without a minor", "with a nest in it" };

		honest(&r, cmd);
		add_dev(&r.more, i == 0 ? tracked : i == 2 ? makedev(0xffe, 7) : spare);
		if (i == 3)
			r.more.n = 1;
		if (i == 4)
			add(&r.more, BLKCBT_A_DISK | NLA_F_NESTED, NULL, 0)->in = &r.in;
		add(&r.top, BLKCBT_A_DISK | NLA_F_NESTED, NULL, 0)->in = &r.more;
		WHAT("command %u, a second disk %s", cmd, second[i]);
		must_refuse(&r, ENOENT);
		if (r.top.n == 3) {
			struct attr swap = r.top.a[1];

			r.top.a[1] = r.top.a[2];
			r.top.a[2] = swap;
			WHAT("command %u, a first disk %s", cmd, second[i]);
			must_refuse(&r, ENOENT);
		}
	}
}

static int strict(char **argv)
{
	static const unsigned int commands[] = { BLKCBT_CMD_INFO, BLKCBT_CMD_ATTACH, BLKCBT_CMD_DETACH,
						 BLKCBT_CMD_GET,  BLKCBT_CMD_CUT,    BLKCBT_CMD_COMMIT,
						 BLKCBT_CMD_ABORT, BLKCBT_CMD_MARK };
	struct request r;
	int err;

	tracked = nl_dev_of(argv[0]);
	spare = nl_dev_of(argv[1]);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		unsigned int cmd = commands[i];
		bool end = cmd == BLKCBT_CMD_COMMIT || cmd == BLKCBT_CMD_ABORT;

		/* With nothing dirty, so that a mark shows; then, for some, with an epoch open. */
		for (int cuts = end ? 2 : 1; cuts; cuts--) {
			epoch_open++;
			if (ask_epoch(BLKCBT_CMD_CUT, epoch_open) ||
			    ((!end || cuts > 1) && ask_epoch(BLKCBT_CMD_COMMIT, epoch_open)))
				nl_die("cut and commit");
		}
		epoch_next = epoch_open + 1;
		remember();
		strict_attrs(cmd, false);
		if (cmd == BLKCBT_CMD_CUT || end)
			strict_attrs(cmd, true);
		strict_header(cmd);
		strict_values(cmd);
		if (cmd == BLKCBT_CMD_DETACH)
			continue;
		/* What all these were made from is accepted: it was the malformation that was refused. */
		honest(&r, cmd);
		make(&out, &r);
		err = nl_ask(&control, &out);
		WHAT("command %u as it should be", cmd);
		if (err)
			complain("refused:", err);
		if (cmd == BLKCBT_CMD_CUT && !err) {
			epoch_open = epoch_next;
			if (ask_epoch(BLKCBT_CMD_ABORT, epoch_open))
				complain("abort:", err);
		}
		if (cmd == BLKCBT_CMD_ATTACH && !err && ask_dev(BLKCBT_CMD_DETACH, spare))
			complain("detach:", err);
	}
	remember();
	for (unsigned int cmd = 0; cmd < 256; cmd++) {
		int also = 0;

		if (cmd >= BLKCBT_CMD_INFO && cmd <= BLKCBT_CMD_MARK)
			continue;
		if (cmd == BLKCBT_CMD_STORE_DROP) /* of a disk that has none */
			also = ENOENT;
		honest(&r, BLKCBT_CMD_GET);
		r.cmd = cmd;
		WHAT("command %u", cmd);
		must_refuse(&r, also);
	}
	honest(&r, BLKCBT_CMD_DETACH);
	make(&out, &r);
	WHAT("detach as it should be");
	err = nl_ask(&control, &out);
	if (err)
		complain("refused:", err);
	printf("refused=%u wrong=%u\n", refused, wrong);
	return wrong || !refused ? 1 : 0;
}

/*
 * random
 */

#define MAX_DISKS 8
#define MAX_FDS	  4

static dev_t pool[MAX_DISKS];
static const char *pool_path[MAX_DISKS];
static unsigned int pool_n;

static uint64_t state;

static uint64_t any(uint64_t below)
{
	return nl_random(&state) % below;
}

static bool one_in(unsigned int n)
{
	return !any(n);
}

static uint64_t odd_number(void)
{
	static const uint64_t odd[] = { 0, 1, 2, 4095, 4096, 0x7fffffff, 0x80000000, 0xffffffff,
					0x100000000, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };

	return one_in(3) ? odd[any(sizeof(odd) / sizeof(odd[0]))] :
	       one_in(2) ? any(1 << 27) : nl_random(&state);
}

static void any_dev(struct list *list)
{
	if (one_in(16)) {
		add_number(list, BLKCBT_A_MAJOR, odd_number());
		add_number(list, BLKCBT_A_MINOR, odd_number());
	} else {
		add_dev(list, pool[any(pool_n)]);
	}
}

static void any_range(struct list *list)
{
	if (one_in(2))
		add_number(list, BLKCBT_A_FROM_BYTES, one_in(4) ? odd_number() : any(1 << 15) << 12);
	if (one_in(2))
		add_number(list, BLKCBT_A_TO_BYTES, one_in(4) ? odd_number() : any(1 << 15) << 12);
}

/* Roughly what an agent sends; @epoch is a number that all processes are near. */
static void plausible(struct request *r, uint64_t epoch)
{
	memset(r, 0, sizeof(*r));
	r->cmd = (unsigned int)(one_in(12) ? any(256) : BLKCBT_CMD_INFO + any(BLKCBT_CMD_MARK));
	r->flags = one_in(8) ? (unsigned int)any(0x10000) : NLM_F_ACK;
	if (r->cmd == BLKCBT_CMD_GET && one_in(2))
		r->flags = NLM_F_DUMP;
	switch (r->cmd) {
	case BLKCBT_CMD_CUT:
	case BLKCBT_CMD_COMMIT:
	case BLKCBT_CMD_ABORT:
		add_number(&r->top, BLKCBT_A_EPOCH, one_in(64) ? odd_number() : epoch + any(3));
		any_dev(&r->in);
		if (r->cmd == BLKCBT_CMD_COMMIT)
			any_range(&r->in);
		add(&r->top, BLKCBT_A_DISK | NLA_F_NESTED, NULL, 0)->in = &r->in;
		if (one_in(3)) {
			any_dev(&r->more);
			add(&r->top, BLKCBT_A_DISK | NLA_F_NESTED, NULL, 0)->in = &r->more;
		}
		return;
	case BLKCBT_CMD_INFO:
		return;
	case BLKCBT_CMD_ATTACH:
		any_dev(&r->top);
		if (one_in(2))
			add_number(&r->top, BLKCBT_A_GRANULE_BYTES,
				   one_in(4) ? odd_number() : 4096u << any(9));
		return;
	case BLKCBT_CMD_DETACH:
		any_dev(&r->top);
		if (one_in(2))
			add(&r->top, BLKCBT_A_FORCE, NULL, 0);
		return;
	default:
		if (r->cmd == BLKCBT_CMD_GET && (r->flags & NLM_F_DUMP) == NLM_F_DUMP && !one_in(4))
			return;
		any_dev(&r->top);
		if (r->cmd == BLKCBT_CMD_MARK)
			any_range(&r->top);
		return;
	}
}

static void mutate(struct request *r)
{
	struct list *lists[] = { &r->top, &r->in, &r->more };
	struct list *list = lists[any(3)];
	struct attr *a = list->n ? &list->a[any(list->n)] : NULL;
	unsigned int type = (unsigned int)any(BLKCBT_A_MAX + 8);

	switch (any(12)) {
	case 0:
		if (a)
			drop(list, a);
		break;
	case 1:
		if (a && list->n < MAX_ATTRS)
			list->a[list->n++] = *a;
		break;
	case 2:
		if (a)
			a->type = type | (a->type & NLA_F_NESTED);
		break;
	case 3:
		if (a)
			a->type ^= one_in(2) ? NLA_F_NESTED : NLA_F_NET_BYTEORDER;
		break;
	case 4:
		if (a && !a->in) {
			a->data = junk;
			a->len = one_in(8) ? any(sizeof(junk)) : any(64);
		}
		break;
	case 5:
		if (a)
			a->says = (int)(one_in(2) ? any(8) : any(65536));
		break;
	case 6:
		if (a && !a->in && (a->len == 4 || a->len == 8))
			a->data = number(odd_number());
		break;
	case 7:
		add(list, type, junk, one_in(4) ? any(300) : length_of(type));
		break;
	case 8: /* a nest in a nest; one in itself ends at a depth of eight */
		add(list, BLKCBT_A_DISK | NLA_F_NESTED, NULL, 0)->in = lists[any(3)];
		break;
	case 9:
		list->tail = (unsigned int)any(8);
		break;
	case 10: /* very many */
		while (list->n < MAX_ATTRS)
			add(list, type, junk, length_of(type));
		break;
	default:
		if (list->n > 1) {
			struct attr *b = &list->a[any(list->n)], swap = *b;

			*b = *a;
			*a = swap;
		}
	}
}

/* Behind the netlink header nothing is sacred. */
static void scribble(struct nlmsg *m)
{
	unsigned int n = (unsigned int)any(6) + 1;

	while (n--)
		if (m->len > NLMSG_HDRLEN)
			m->b[NLMSG_HDRLEN + any(m->len - NLMSG_HDRLEN)] ^= (unsigned char)(1u << any(8));
	if (one_in(3))
		m->hdr.nlmsg_len = (uint32_t)(one_in(2) ? any(m->len + 16) : nl_random(&state));
	if (one_in(6))
		m->len = any(m->len) + 1;
}

static struct nlsock fresh_socket(void)
{
	static const int options[] = { NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK,
				       NETLINK_NO_ENOBUFS, NETLINK_BROADCAST_ERROR };
	struct nlsock s = nl_open();
	int small = 2048;

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int on = one_in(2);

		setsockopt(s.fd, SOL_NETLINK, options[i], &on, sizeof(on));
	}
	if (one_in(3))
		setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &nl_group, sizeof(nl_group));
	if (one_in(3))
		setsockopt(s.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	return s;
}

struct tally {
	unsigned long sent, accepted, rejected, overrun;
};

/* Whatever has come, without waiting. */
static void drain(struct nlsock *s, struct tally *t)
{
	static unsigned char in[1 << 16];
	ssize_t n;

	for (int i = 0; i < 64; i++) {
		n = recv(s->fd, in, one_in(32) ? 20 : sizeof(in), MSG_DONTWAIT);
		if (n < 0) {
			if (errno != ENOBUFS)
				return;
			t->overrun++;
			continue;
		}
		if ((size_t)n >= NLMSG_HDRLEN + sizeof(int)) {
			struct nlmsghdr h;
			int error;

			memcpy(&h, in, sizeof(h));
			memcpy(&error, in + NLMSG_HDRLEN, sizeof(error));
			if (h.nlmsg_type == NLMSG_ERROR && error)
				t->rejected++;
			else
				t->accepted++;
		}
	}
}

/* Character devices: opened, read, sought, left open across everything. */
static void around(int *fds)
{
	static unsigned char buffer[1 << 16] __attribute__((aligned(4096)));
	unsigned int i = (unsigned int)any(MAX_FDS);
	char path[64];

	if (one_in(3)) { /* a write; the disk may be anything by now */
		unsigned int disk = (unsigned int)any(pool_n);
		int fd = open(pool_path[disk], O_WRONLY | O_DIRECT | O_CLOEXEC);

		if (fd < 0)
			return;
		memset(buffer, (int)any(256), 4096);
		if (pwrite(fd, buffer, 4096, (off_t)(any(1024) << 12)) < 0)
			errno = 0;
		close(fd);
		return;
	}
	if (fds[i] >= 0 && one_in(2)) {
		close(fds[i]);
		fds[i] = -1;
	}
	if (fds[i] < 0) {
		snprintf(path, sizeof(path), BLKCBT_CHARDEV_FORMAT, (unsigned int)any(pool_n + 1));
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (fds[i] < 0)
		return;
	if (one_in(2))
		lseek(fds[i], (off_t)odd_number(), one_in(2) ? SEEK_SET : SEEK_END);
	if (read(fds[i], buffer, one_in(2) ? any(64) : any(sizeof(buffer))) < 0)
		errno = 0;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* One process; 0 when it reached both sides of the kernel's judgement. */
static int one_process(uint64_t seed, unsigned int process, unsigned long count, double seconds)
{
	struct tally t = { 0 };
	double end = seconds > 0 ? now() + seconds : 0;
	int fds[MAX_FDS] = { -1, -1, -1, -1 };
	struct nlsock s;

	state = nl_seed(seed, process);
	s = fresh_socket();
	while ((!count || t.sent < count) && (!(end > 0) || (t.sent & 15) || now() < end)) {
		static struct nlmsg batch;
		struct request r;
		unsigned int n = one_in(8) ? (unsigned int)any(5) + 1 : 1;

		batch.len = 0;
		while (n--) {
			/* Messages are roughly in step with each other, also between processes. */
			plausible(&r, t.sent / 8 + 1);
			for (unsigned int i = one_in(2) ? 0 : (unsigned int)any(4); i; i--)
				mutate(&r);
			make(&out, &r);
			out.hdr.nlmsg_seq = ++s.seq;
			if (one_in(16)) { /* what is no request, or is for nobody */
				out.hdr.nlmsg_type = (uint16_t)any(NLMSG_MIN_TYPE);
				out.hdr.nlmsg_flags = (uint16_t)any(0x10000);
			}
			if (one_in(16)) {
				struct genlmsghdr g = { .cmd = (uint8_t)r.cmd, .version = (uint8_t)any(256),
							.reserved = (uint16_t)any(2) };

				memcpy(out.b + NLMSG_HDRLEN, &g, sizeof(g));
			}
			if (one_in(8))
				scribble(&out);
			t.sent++;
			if (batch.len + out.len > NLMSG_MAX)
				break;
			nl_append(&batch, out.b, out.len);
		}
		if (batch.len && send(s.fd, batch.b, batch.len, MSG_DONTWAIT) < 0)
			t.overrun++;
		if (!one_in(16))
			drain(&s, &t);
		if (one_in(24))
			around(fds);
		if (one_in(256)) {
			close(s.fd);
			s = fresh_socket();
		}
	}
	printf("process %u: sent %lu, accepted %lu, refused %lu, overrun %lu\n", process, t.sent,
	       t.accepted, t.rejected, t.overrun);
	fflush(stdout);
	return t.accepted && t.rejected ? 0 : 1;
}

static int random_messages(int argc, char **argv)
{
	uint64_t seed = strtoull(argv[0], NULL, 0);
	unsigned long count = strtoul(argv[1], NULL, 0);
	double seconds = strtod(argv[2], NULL);
	unsigned int processes = (unsigned int)strtoul(argv[3], NULL, 0);
	int bad = 0, status;

	for (int i = 4; i < argc && pool_n < MAX_DISKS; i++) {
		pool_path[pool_n] = argv[i];
		pool[pool_n++] = nl_dev_of(argv[i]);
	}
	printf("seed %llu, %u processes\n", (unsigned long long)seed, processes);
	fflush(stdout);
	for (unsigned int i = 0; i < processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			nl_die("fork");
		if (!pid)
			_exit(one_process(seed, i, count, seconds));
	}
	while (wait(&status) > 0)
		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			printf("a process ended with status 0x%x\n", (unsigned int)status);
			bad = 1;
		}
	return bad;
}

int main(int argc, char **argv)
{
	uint64_t fill = nl_seed(1, 0);

	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (unsigned char)nl_random(&fill);
	control = nl_open();
	if (!nl_resolve(&control, &out)) {
		fprintf(stderr, "nlfuzz: no family blkcbt: is the module loaded?\n");
		return 2;
	}
	if (argc == 4 && !strcmp(argv[1], "strict"))
		return strict(argv + 2);
	if (argc > 6 && !strcmp(argv[1], "random"))
		return random_messages(argc - 2, argv + 2);
	fprintf(stderr, "usage: nlfuzz strict TRACKED SPARE | random SEED COUNT SECONDS PROCESSES DISK...\n");
	return 2;
}
