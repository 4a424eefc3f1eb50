// SPDX-License-Identifier: GPL-2.0
/*
 * QUERY and SEAL, and the KVM device that opts a VM in.
 *
 * First every request that must be refused, each with its error. After each of
 * them the VM must still be open and its memory writable: a request takes effect
 * whole or not at all. Then the good requests, then the device.
 */
#include <pthread.h>

#include "kselftest.h"
#include "heki.h"

#define NR_VCPUS	2

/* One request that differs from a good one, and what comes of it. */
struct refusal {
	const char *name;
	long error;
	/* The block. Without ranges, one good range is put in. */
	struct heki_range range[2];
	struct heki_pin pin[2];
	struct heki_area area[2];
	u32 version_off;
	u32 flags;
	u32 claimed_ranges;	/* what the header says, if not what is there */
	u32 claimed_pins;
	u32 claimed_areas;
	u32 reserved;
	bool empty;
	/* The registers of the hypercall. */
	s64 len_off;
	u64 len;		/* if not zero */
	u64 gpa;		/* if not zero */
	u64 op_off;
	u64 a3;
};

#define RANGE(_gpa, _len, _rights, _kind)	\
	{ .gpa = (_gpa), .len = (_len), .rights = (_rights), .kind = (_kind) }
#define AT(nr, _va, _kind)	\
	{ .gpa = HEKI_PAGE(nr), .len = PAGE_SIZE, .va = (_va), .kind = (_kind) }
#define AREA(_kind, _va, _len)	{ .kind = HEKI_AREA_##_kind, .va = (_va), .len = (_len) }
#define RODATA(nr)	RANGE(HEKI_PAGE(nr), PAGE_SIZE, 0, HEKI_KIND_RODATA)
#define TEXT(nr)	RANGE(HEKI_PAGE(nr), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT)
#define PIN(_reg, _mask) \
	{ .reg = HEKI_REG_##_reg, .mask = (_mask) }
#define MSR(_index, _mask) \
	{ .reg = HEKI_REG_MSR, .index = (_index), .mask = (_mask) }
#define REQUEST_END	(HEKI_REQUEST_GPA + HEKI_REQUEST_PAGES * PAGE_SIZE)

/* The guest has CR0.WP and CR4.SMEP set, CR4.SMAP and CR0.AM not. */
static const struct refusal refusals[] = {
	/* The hypercall */
	{ "unknown operation", KVM_ENOSYS, .op_off = HEKI_OP_KEXEC },
	{ "operation beyond 32 bits", KVM_ENOSYS, .op_off = 1ull << 32 },
	{ "reserved argument", KVM_EINVAL, .a3 = 1 },
	{ "high bit of the reserved argument", KVM_EINVAL, .a3 = 1ull << 63 },
	{ "request in no memslot", KVM_EFAULT, .gpa = HEKI_HOLE_GPA },
	{ "request across the end of a memslot", KVM_EFAULT, .gpa = REQUEST_END - 8 },
	{ "request beyond any physical address", KVM_EFAULT, .gpa = ~7ull },
	{ "length 0", KVM_EINVAL, .len_off = -(s64)(sizeof(struct heki_seal) +
						     sizeof(struct heki_range)) },
	{ "length of half a header", KVM_EINVAL, .len = sizeof(struct heki_seal) / 2 },
	{ "length one short", KVM_EINVAL, .len_off = -1 },
	{ "length one long", KVM_EINVAL, .len_off = 1 },
	{ "length one range short", KVM_EINVAL, .len_off = -(s64)sizeof(struct heki_range) },
	{ "largest length, mostly unused", KVM_EINVAL, .len = HEKI_MAX_REQUEST_BYTES },
	{ "length just too big", KVM_E2BIG, .len = HEKI_MAX_REQUEST_BYTES + 1 },
	{ "length far too big", KVM_E2BIG, .len = ~0ull },

	/* The header */
	{ "version too low", KVM_EINVAL, .version_off = -1 },
	{ "version too high", KVM_EINVAL, .version_off = 1 },
	{ "unknown flag", KVM_EINVAL, .flags = HEKI_SEAL_FLAGS + 1 },
	{ "highest flag", KVM_EINVAL, .flags = 1u << 31 },
	{ "too many ranges", KVM_E2BIG, .claimed_ranges = HEKI_MAX_RANGES + 1 },
	{ "more ranges than any length", KVM_E2BIG, .claimed_ranges = ~0u },
	{ "too many areas", KVM_E2BIG, .claimed_areas = HEKI_MAX_AREAS + 1 },
	{ "more areas claimed than sent", KVM_EINVAL, .claimed_areas = 1 },
	{ "reserved field of the header", KVM_EINVAL, .reserved = 1 },
	{ "too many pins", KVM_E2BIG, .claimed_pins = HEKI_MAX_PINS + 1 },
	{ "more pins than any length", KVM_E2BIG, .claimed_pins = ~0u },
	{ "more ranges claimed than sent", KVM_EINVAL, .claimed_ranges = 2 },
	{ "more pins claimed than sent", KVM_EINVAL, .claimed_pins = 1 },
	{ "neither ranges nor pins", KVM_EINVAL, .empty = true },

	/* Ranges, the second one bad: the first must not be sealed */
	{ "unaligned address", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_PAGE(4) + 8, PAGE_SIZE, 0, 0) } },
	{ "unaligned length", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_PAGE(4), PAGE_SIZE - 1, 0, 0) } },
	{ "empty range", KVM_EINVAL, .range = { RODATA(0), RANGE(HEKI_PAGE(4), 0, 0, 0) } },
	{ "range that wraps", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(-2 * PAGE_SIZE, 4 * PAGE_SIZE, 0, 0) } },
	{ "range beyond any physical address", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(1ull << 52, PAGE_SIZE, 0, 0) } },
	{ "the same range twice", KVM_EINVAL, .range = { RODATA(0), RODATA(0) } },
	{ "overlap", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_TEST_GPA, 2 * PAGE_SIZE, 0, 0) } },
	{ "overlap, in falling order", KVM_EINVAL,
	  .range = { RODATA(5), RANGE(HEKI_TEST_GPA, 6 * PAGE_SIZE, 0, 0) } },
	{ "unknown right", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_PAGE(4), PAGE_SIZE, HEKI_RIGHTS + 1, 0) } },
	{ "write and execute", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_PAGE(4), PAGE_SIZE, HEKI_RIGHTS, 0) } },
	{ "unknown kind", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_PAGE(4), PAGE_SIZE, 0, HEKI_KIND_COUNT) } },
	{ "range in no memslot", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_HOLE_GPA, PAGE_SIZE, 0, 0) } },
	{ "range across the end of a memslot", KVM_EINVAL,
	  .range = { RODATA(0), RANGE(HEKI_PAGE(HEKI_TEST_PAGES - 1), 2 * PAGE_SIZE, 0, 0) } },
	{ "range of all physical memory", KVM_EINVAL, .range = { RANGE(0, 1ull << 52, 0, 0) } },

	{ "unaligned virtual address", KVM_EINVAL,
	  .range = { RODATA(0), AT(4, 0x1008, HEKI_KIND_RODATA) } },
	{ "virtual address that wraps", KVM_EINVAL,
	  .range = { RODATA(0), AT(4, -PAGE_SIZE, HEKI_KIND_RODATA) } },
	{ "two ranges at one virtual address", KVM_EINVAL,
	  .range = { AT(0, 0x1000, HEKI_KIND_RODATA), AT(4, 0x1000, HEKI_KIND_RODATA) } },
	{ "kind that only a grant gives", KVM_EINVAL,
	  .range = { RODATA(0), AT(4, 0x1000, HEKI_KIND_FTRACE) } },

	/* Areas */
	{ "unknown area", KVM_EINVAL, .area = { { .kind = HEKI_AREA_COUNT } } },
	{ "reserved field of an area", KVM_EINVAL,
	  .area = { AREA(ENDBR, 0, 0), { .kind = HEKI_AREA_IMAGE, .reserved = 1 } } },
	{ "area that wraps", KVM_EINVAL, .area = { AREA(IMAGE, -8ull, 16) } },
	{ "half an entry of a table", KVM_EINVAL, .area = { AREA(JUMP_TABLE, 0x1000, 24) } },
	{ "two areas of one kind", KVM_EINVAL,
	  .area = { AREA(IMAGE, 0x1000, 8), AREA(IMAGE, 0x2000, 8) } },
	{ "more sites than a VM may have", KVM_E2BIG,
	  .area = { AREA(JUMP_TABLE, 0x1000, 16ull * HEKI_MAX_SITES),
		    AREA(STATIC_CALL_SITES, 0x1000, 8) } },
	{ "table in memory that is not sealed", KVM_EFAULT,
	  .range = { AT(0, 0x1000, HEKI_KIND_RODATA) }, .area = { AREA(JUMP_TABLE, 0x2000, 16) } },
	{ "table that reaches out of sealed memory", KVM_EFAULT,
	  .range = { AT(0, 0x1000, HEKI_KIND_RODATA) },
	  .area = { AREA(JUMP_TABLE, 0x1ff0, 32) } },

	/* Pins */
	{ "unknown register", KVM_EINVAL, .pin = { { .reg = 3, .mask = 1 } } },
	{ "index of a control register", KVM_EINVAL,
	  .pin = { { .reg = HEKI_REG_CR0, .index = 1, .mask = X86_CR0_WP } } },
	{ "index of XCR0", KVM_EINVAL, .pin = { { .reg = HEKI_REG_XCR0, .index = 1, .mask = 1 } } },
	{ "pin of no bits of an MSR", KVM_EINVAL, .pin = { MSR(MSR_LSTAR, 0) } },
	{ "two pins of one MSR", KVM_EINVAL, .pin = { MSR(MSR_LSTAR, 1), MSR(MSR_LSTAR, 2) } },
	{ "pin of an MSR that the kernel switches", KVM_EOPNOTSUPP,
	  .pin = { MSR(MSR_LSTAR, ~0ull), MSR(MSR_GS_BASE, ~0ull) } },
	{ "pin of an MSR without a row", KVM_EOPNOTSUPP, .pin = { MSR(MSR_IA32_TSC, ~0ull) } },
	{ "pin of an MSR that does not exist", KVM_EOPNOTSUPP, .pin = { MSR(~0u, ~0ull) } },
	{ "pin of EFER.LMA", KVM_EOPNOTSUPP, .pin = { MSR(MSR_EFER, EFER_LMA | EFER_LME) } },
	{ "pin of no bits", KVM_EINVAL, .pin = { PIN(CR0, X86_CR0_WP), PIN(CR4, 0) } },
	{ "two pins of one register", KVM_EINVAL,
	  .pin = { PIN(CR0, X86_CR0_WP), PIN(CR0, X86_CR0_NE) } },
	{ "pin of a clear bit of CR4", KVM_EINVAL, .pin = { PIN(CR4, X86_CR4_SMAP) } },
	{ "pin of a clear bit of CR0", KVM_EINVAL,
	  .pin = { PIN(CR0, X86_CR0_WP | X86_CR0_AM) } },
	{ "pin of what cannot be pinned in CR0", KVM_EOPNOTSUPP,
	  .pin = { PIN(CR0, X86_CR0_WP | X86_CR0_TS) } },
	{ "pin of protected mode", KVM_EOPNOTSUPP, .pin = { PIN(CR0, X86_CR0_PE) } },
	{ "pin of what cannot be pinned in CR4", KVM_EOPNOTSUPP,
	  .pin = { PIN(CR4, X86_CR4_SMEP | X86_CR4_PGE) } },
	{ "pin beyond 32 bits", KVM_EOPNOTSUPP, .pin = { PIN(CR0, 1ull << 32) } },

	/* The allow-list; without MBEC or GMET, all EOPNOTSUPP */
	{ "allow-list that lists nothing", KVM_EINVAL, .flags = HEKI_SEAL_EXEC,
	  .pin = { PIN(CR4, X86_CR4_SMEP) } },
	{ "allow-list without a pin", KVM_EINVAL, .flags = HEKI_SEAL_EXEC,
	  .range = { TEXT(0) } },
	{ "allow-list without a pin of SMEP", KVM_EINVAL, .flags = HEKI_SEAL_EXEC,
	  .range = { TEXT(0) }, .pin = { PIN(CR0, X86_CR0_WP) } },
	{ "allow-list with write and execute", KVM_EINVAL, .flags = HEKI_SEAL_EXEC,
	  .range = { TEXT(0), RANGE(HEKI_PAGE(4), PAGE_SIZE, HEKI_RIGHTS, 0) },
	  .pin = { PIN(CR4, X86_CR4_SMEP) } },
};

static bool is_range(const struct heki_range *range)
{
	return range->gpa || range->len;
}

static void add_ranges(struct heki_seal *req, const struct refusal *r)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(r->range) && is_range(&r->range[i]); i++)
		heki_ranges(req)[req->nr_ranges++] = r->range[i];
	if (!i && !r->empty)
		heki_add_page(req, 0);
}

static void add_pins(struct heki_seal *req, const struct refusal *r)
{
	int i;

	/* A pin of no bits is one of the cases: heki_add_pin() would leave it out. */
	for (i = 0; i < ARRAY_SIZE(r->pin) && (r->pin[i].reg || r->pin[i].mask); i++)
		heki_pins(req)[req->nr_pins++] = r->pin[i];
}

static void add_areas(struct heki_seal *req, const struct refusal *r)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(r->area) && (r->area[i].kind || r->area[i].len); i++)
		heki_areas(req)[req->nr_areas++] = r->area[i];
}

static s64 send_refusal(struct heki_vm *h, const struct refusal *r)
{
	struct heki_seal *req = heki_begin_request(h, r->flags);
	u64 len;

	add_ranges(req, r);
	add_pins(req, r);
	add_areas(req, r);
	len = heki_request_len(req) + r->len_off;
	req->version += r->version_off;
	req->nr_ranges = r->claimed_ranges ?: req->nr_ranges;
	req->nr_pins = r->claimed_pins ?: req->nr_pins;
	req->nr_areas = r->claimed_areas ?: req->nr_areas;
	req->reserved = r->reserved;
	return heki_hypercall(h->vcpu[0], HEKI_OP_SEAL + r->op_off, r->gpa ?: HEKI_REQUEST_GPA,
			      r->len ?: len, r->a3);
}

/* Open, and every page that a refusal names still takes writes. */
static bool is_untouched(struct heki_vm *h)
{
	struct heki_query q = heki_query(h);
	int page;

	for (page = 0; page < 6; page++) {
		heki_poke(h, HEKI_PAGE(page), HEKI_CALM);
		if (heki_call(h->vcpu[0], guest_write, HEKI_PAGE(page), HEKI_ATTACK) ||
		    heki_peek(h, HEKI_PAGE(page)) != HEKI_ATTACK)
			return false;
	}
	return q.state == HEKI_STATE_OPEN && !q.held;
}

static void test_refusal(struct heki_vm *h, const struct refusal *r, bool has_exec)
{
	long error = r->flags == HEKI_SEAL_EXEC && !has_exec ? KVM_EOPNOTSUPP : r->error;
	u64 refused = vcpu_get_stat(h->vcpu[0], heki_refused);
	s64 ret = send_refusal(h, r);
	bool counted, untouched;

	/* What never became a SEAL is not counted as one. */
	counted = vcpu_get_stat(h->vcpu[0], heki_refused) ==
		  refused + (r->op_off || r->a3 ? 0 : 1);
	untouched = is_untouched(h);
	if (ret != -error)
		ksft_print_msg("%s: wanted %ld, got %ld\n", r->name, -error, ret);
	if (!counted)
		ksft_print_msg("%s: not counted once\n", r->name);
	if (!untouched)
		ksft_print_msg("%s: changed the VM\n", r->name);
	ksft_test_result(ret == -error && counted && untouched, "refused: %s\n", r->name);
}

/*
 * One line each from here on: KSFT_PASS, KSFT_FAIL or KSFT_SKIP with @why set.
 */

struct step {
	const char *name;
	int (*run)(struct heki_vm *h, const char **why);
};

#define CHECK(cond)								\
do {										\
	if (!(cond)) {								\
		ksft_print_msg("%s:%d: %s is not so\n", __func__, __LINE__, #cond); \
		return KSFT_FAIL;						\
	}									\
} while (0)

static int cet_needs_wp(struct heki_vm *h, const char **why)
{
	static const u64 cet = 1ull << 23;
	struct heki_seal *req;

	if (!(heki_query(h).cr4_pinnable & cet)) {
		*why = "no CET on this host";
		return KSFT_SKIP;
	}
	heki_guest_enable_cr4(h->vcpu[0], cet);
	req = heki_begin_request(h, 0);
	heki_add_pin(req, HEKI_REG_CR4, cet);
	CHECK(heki_send(h, h->vcpu[0]) == -KVM_EINVAL);
	CHECK(!heki_call(h->vcpu[0], guest_set_cr4,
			 heki_call(h->vcpu[0], guest_get_cr4) & ~cet));
	CHECK(is_untouched(h));
	return KSFT_PASS;
}

static int query_of_open(struct heki_vm *h, const char **why)
{
	struct heki_query q = heki_query(h);

	CHECK(q.version == HEKI_ABI_VERSION);
	CHECK(q.state == HEKI_STATE_OPEN);
	CHECK(q.held == 0);
	CHECK((q.available & (HEKI_PROT_WRITE | HEKI_PROT_CR)) ==
	      (HEKI_PROT_WRITE | HEKI_PROT_CR));
	CHECK(q.cr0_pinnable & X86_CR0_WP);
	CHECK(!(q.cr0_pinnable & X86_CR0_TS));
	CHECK(!!(q.cr4_pinnable & X86_CR4_SMEP) == this_cpu_has(X86_FEATURE_SMEP));
	CHECK(!!(q.cr4_pinnable & X86_CR4_SMAP) == this_cpu_has(X86_FEATURE_SMAP));
	CHECK(q.cr4_pinnable & X86_CR4_UMIP || !this_cpu_has(X86_FEATURE_UMIP));
	CHECK(!(q.cr4_pinnable & X86_CR4_PGE));
	CHECK(q.max_bytes == HEKI_MAX_REQUEST_BYTES && q.max_bytes >= 65536);
	CHECK(q.max_ranges == HEKI_MAX_RANGES);
	CHECK(q.max_pins == HEKI_MAX_PINS);
	CHECK((q.patch & 0xff) == (HEKI_PATCH_JUMP_LABEL | HEKI_PATCH_STATIC_CALL));
	return KSFT_PASS;
}

static s64 query_at(struct heki_vm *h, u64 gpa, u64 len, u64 a3)
{
	return heki_hypercall(h->vcpu[0], HEKI_OP_QUERY, gpa, len, a3);
}

static int query_refused(struct heki_vm *h, const char **why)
{
	u64 queries = vcpu_get_stat(h->vcpu[0], heki_query);
	u64 len = sizeof(struct heki_query);

	CHECK(query_at(h, HEKI_ANSWER_GPA, len - 1, 0) == -KVM_EINVAL);
	CHECK(query_at(h, HEKI_ANSWER_GPA, 0, 0) == -KVM_EINVAL);
	CHECK(query_at(h, HEKI_ANSWER_GPA, len, 1) == -KVM_EINVAL);
	CHECK(query_at(h, HEKI_HOLE_GPA, len, 0) == -KVM_EFAULT);
	CHECK(query_at(h, REQUEST_END - 8, len, 0) == -KVM_EFAULT);
	CHECK(query_at(h, ~7ull, len, 0) == -KVM_EFAULT);
	/* All but the one that used the reserved argument. */
	CHECK(vcpu_get_stat(h->vcpu[0], heki_query) == queries + 5);
	return KSFT_PASS;
}

/* A longer buffer is for later versions: what this one does not know stays as it was. */
static int query_longer(struct heki_vm *h, const char **why)
{
	u64 len = sizeof(struct heki_query);

	heki_poke(h, HEKI_ANSWER_GPA + len, HEKI_CALM);
	CHECK(!query_at(h, HEKI_ANSWER_GPA, len + 8, 0));
	CHECK(heki_peek(h, HEKI_ANSWER_GPA + len) == HEKI_CALM);
	return KSFT_PASS;
}

static void *race_thread(void *data)
{
	struct kvm_vcpu *vcpu = data;

	vcpu_run(vcpu);
	return NULL;
}

/* Both vCPUs send the same request at once: one seals, the other is told so. */
static int two_at_once(struct heki_vm *h, const char **why)
{
	pthread_t thread[NR_VCPUS];
	s64 ret[NR_VCPUS];
	struct heki_vm vm;
	u64 len;
	int i;

	heki_vm_create(&vm, NR_VCPUS);
	heki_add_page(heki_begin_request(&vm, 0), 0);
	len = heki_request_len(vm.request);
	for (i = 0; i < NR_VCPUS; i++) {
		heki_prepare_call(vm.vcpu[i], guest_hypercall,
				  (u64[]){ HEKI_OP_SEAL, HEKI_REQUEST_GPA, len, 0 });
		pthread_create(&thread[i], NULL, race_thread, vm.vcpu[i]);
	}
	for (i = 0; i < NR_VCPUS; i++) {
		pthread_join(thread[i], NULL);
		ret[i] = heki_finish_call(vm.vcpu[i]);
	}
	heki_vm_free(&vm);

	CHECK(ret[0] + ret[1] == -KVM_EPERM);
	CHECK(!ret[0] || !ret[1]);
	return KSFT_PASS;
}

/* Only pins: the other vCPU and all memory are as before. */
static int pins_alone(struct heki_vm *h, const char **why)
{
	struct heki_seal *req;
	struct heki_vm vm;
	struct heki_query q;

	heki_vm_create(&vm, 1);
	heki_guest_enable_cr0(vm.vcpu[0], X86_CR0_WP);
	req = heki_begin_request(&vm, 0);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(&vm);
	q = heki_query(&vm);
	heki_vm_free(&vm);

	CHECK(q.state == HEKI_STATE_SEALED);
	CHECK(q.held == HEKI_PROT_CR);
	return KSFT_PASS;
}

/* As many ranges as there may be, no two neighbours alike, more than 64 KiB. */
static int largest_request(struct heki_vm *h, const char **why)
{
	struct heki_seal *req = heki_begin_request(h, 0);
	int i;

	for (i = 0; i < HEKI_MAX_RANGES; i++)
		heki_add_range(req, HEKI_PAGE(i), PAGE_SIZE, 0, i % HEKI_KIND_FTRACE);
	CHECK(heki_request_len(req) >= 65536);
	CHECK(!heki_send(h, h->vcpu[0]));
	return KSFT_PASS;
}

static int query_of_sealed(struct heki_vm *h, const char **why)
{
	struct heki_query q = heki_query(h);

	CHECK(q.state == HEKI_STATE_SEALED);
	CHECK(q.held == HEKI_PROT_WRITE);
	CHECK(vcpu_get_stat(h->vcpu[0], heki_seal) == 1);
	return KSFT_PASS;
}

static int every_range_holds(struct heki_vm *h, const char **why)
{
	int i;

	for (i = 0; i < HEKI_MAX_RANGES; i += 97) {
		heki_poke(h, HEKI_PAGE(i), HEKI_CALM);
		CHECK(heki_call(h->vcpu[i % NR_VCPUS], guest_write, HEKI_PAGE(i),
				HEKI_ATTACK) == GP_VECTOR);
		CHECK(heki_peek(h, HEKI_PAGE(i)) == HEKI_CALM);
	}
	return KSFT_PASS;
}

static int second_seal(struct heki_vm *h, const char **why)
{
	heki_add_page(heki_begin_request(h, 0), 0);
	CHECK(heki_send(h, h->vcpu[0]) == -KVM_EPERM);
	CHECK(heki_send(h, h->vcpu[1]) == -KVM_EPERM);
	/* Refused before the host copies anything. */
	CHECK(heki_hypercall(h->vcpu[1], HEKI_OP_SEAL, HEKI_HOLE_GPA, ~0ull, 0) == -KVM_EPERM);
	CHECK(heki_query(h).state == HEKI_STATE_SEALED);
	return KSFT_PASS;
}

static int query_into_sealed_page(struct heki_vm *h, const char **why)
{
	heki_poke(h, HEKI_PAGE(1), HEKI_CALM);
	CHECK(query_at(h, HEKI_PAGE(1), sizeof(struct heki_query), 0) == -KVM_EFAULT);
	CHECK(heki_peek(h, HEKI_PAGE(1)) == HEKI_CALM);
	return KSFT_PASS;
}

/* A request may lie in sealed memory: it is only read. */
static int request_in_sealed_page(struct heki_vm *h, const char **why)
{
	struct heki_vm vm;
	s64 ret, again;
	u64 len;

	heki_vm_create(&vm, 1);
	vm.request = heki_hva(&vm, HEKI_PAGE(0));
	heki_add_page(heki_begin_request(&vm, 0), 0);
	len = heki_request_len(vm.request);
	ret = heki_hypercall(vm.vcpu[0], HEKI_OP_SEAL, HEKI_PAGE(0), len, 0);
	again = heki_call(vm.vcpu[0], guest_write, HEKI_PAGE(0), HEKI_ATTACK);
	heki_vm_free(&vm);

	CHECK(!ret);
	CHECK(again == GP_VECTOR);
	return KSFT_PASS;
}

static int allow_list(struct heki_vm *h, const char **why)
{
	struct heki_query q;
	struct heki_vm vm;
	struct heki_seal *req;

	if (!heki_has_exec(h)) {
		*why = "neither MBEC nor GMET on this host";
		return KSFT_SKIP;
	}
	heki_vm_create(&vm, 1);
	req = heki_begin_exec_request(&vm);
	heki_add_pin(req, HEKI_REG_CR4, X86_CR4_SMEP);
	heki_seal(&vm);
	q = heki_query(&vm);
	heki_vm_free(&vm);

	CHECK(q.state == HEKI_STATE_SEALED);
	CHECK(q.held == (HEKI_PROT_WRITE | HEKI_PROT_EXEC | HEKI_PROT_CR));
	return KSFT_PASS;
}

/*
 * The device. These steps make VMs of their own.
 */

static int device_is_known(struct heki_vm *h, const char **why)
{
	CHECK(!__kvm_test_create_device(h->vm, KVM_DEV_TYPE_HEKI));
	CHECK(__kvm_test_create_device(h->vm, KVM_DEV_TYPE_HEKI + 1) && errno == ENODEV);
	CHECK(__kvm_test_create_device(h->vm, KVM_DEV_TYPE_HEKI - 1) && errno == ENODEV);
	return KSFT_PASS;
}

static int second_device(struct heki_vm *h, const char **why)
{
	CHECK(__kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI) < 0 && errno == EEXIST);
	CHECK(heki_query(h).state == HEKI_STATE_SEALED);
	return KSFT_PASS;
}

static int device_after_vcpu(struct heki_vm *h, const char **why)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd, error;

	if (heki_is_for_all()) {
		*why = "kvm.heki=all opts every VM in";
		return KSFT_SKIP;
	}
	vm = vm_create_with_one_vcpu(&vcpu, NULL);
	fd = __kvm_create_device(vm, KVM_DEV_TYPE_HEKI);
	error = errno;
	kvm_vm_free(vm);
	CHECK(fd < 0 && error == EBUSY);
	return KSFT_PASS;
}

static int set_attr(int fd, u32 group, u64 attr, u32 flags, u64 addr)
{
	struct kvm_device_attr a = {
		.group = group,
		.attr = attr,
		.flags = flags,
		.addr = addr,
	};

	return __kvm_ioctl(fd, KVM_SET_DEVICE_ATTR, &a) ? errno : 0;
}

static int attributes(struct heki_vm *h, const char **why)
{
	int fd = h->device;

	CHECK(!__kvm_has_device_attr(fd, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET));
	CHECK(__kvm_has_device_attr(fd, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_PIN + 1) &&
	      errno == ENXIO);
	CHECK(__kvm_has_device_attr(fd, KVM_DEV_HEKI_CTRL + 1, KVM_DEV_HEKI_RESET) &&
	      errno == ENXIO);
	CHECK(set_attr(fd, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_PIN + 1, 0, 0) == ENXIO);
	CHECK(set_attr(fd, KVM_DEV_HEKI_CTRL + 1, KVM_DEV_HEKI_RESET, 0, 0) == ENXIO);
	CHECK(set_attr(fd, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, 1, 0) == EINVAL);
	CHECK(set_attr(fd, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, 0, 8) == EINVAL);
	CHECK(heki_query(h).state == HEKI_STATE_SEALED);
	return KSFT_PASS;
}

static int reset_attribute(struct heki_vm *h, const char **why)
{
	CHECK(!set_attr(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, 0, 0));
	CHECK(is_untouched(h));
	return KSFT_PASS;
}

/* Closing the device is not a way out. */
static int closed_device(struct heki_vm *h, const char **why)
{
	heki_seal_page(h, 0);
	close(h->device);
	h->device = -1;
	CHECK(heki_query(h).state == HEKI_STATE_SEALED);
	CHECK(heki_call(h->vcpu[0], guest_write, HEKI_PAGE(0), HEKI_ATTACK) == GP_VECTOR);
	return KSFT_PASS;
}

static const struct step steps[] = {
	{ "refused: pin of CET without one of WP", cet_needs_wp },
	{ "query of an open VM", query_of_open },
	{ "refused queries", query_refused },
	{ "query with a longer buffer", query_longer },
	{ "two vCPUs seal at once", two_at_once },
	{ "pins alone", pins_alone },
	{ "execution allow-list", allow_list },
	{ "request in the page that it seals", request_in_sealed_page },
	{ "largest request", largest_request },
	{ "query of a sealed VM", query_of_sealed },
	{ "every range of it holds", every_range_holds },
	{ "second seal", second_seal },
	{ "query into a sealed page", query_into_sealed_page },
	{ "device is known", device_is_known },
	{ "second device", second_device },
	{ "device after a vCPU", device_after_vcpu },
	{ "attributes of the device", attributes },
	{ "reset", reset_attribute },
	{ "closed device", closed_device },
};

static void run_step(struct heki_vm *h, const struct step *step)
{
	const char *why = NULL;
	int result = step->run(h, &why);

	if (result == KSFT_SKIP)
		ksft_test_result_skip("%s %s\n", step->name, why);
	else
		ksft_test_result(result == KSFT_PASS, "%s\n", step->name);
}

int main(int argc, char *argv[])
{
	struct heki_vm h;
	bool has_exec;
	int i;

	ksft_print_header();
	heki_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SMEP) && kvm_cpu_has(X86_FEATURE_SMAP));
	ksft_set_plan(ARRAY_SIZE(refusals) + ARRAY_SIZE(steps));

	heki_vm_create(&h, NR_VCPUS);
	heki_guest_enable_cr0(h.vcpu[0], X86_CR0_WP);
	heki_guest_enable_cr4(h.vcpu[0], X86_CR4_SMEP);
	has_exec = heki_has_exec(&h);

	for (i = 0; i < ARRAY_SIZE(refusals); i++)
		test_refusal(&h, &refusals[i], has_exec);
	for (i = 0; i < ARRAY_SIZE(steps); i++)
		run_step(&h, &steps[i]);

	heki_vm_free(&h);
	ksft_finished();
}
