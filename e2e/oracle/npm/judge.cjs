// Judge reads an array of questions from stdin and writes an array of answers: whether the sender's own library accepts the request. It opens
// no connection: the certificate that sns-validator asks for is in the question.
'use strict';

const crypto = require('node:crypto');
const https = require('node:https');
const { EventEmitter } = require('node:events');

// quiet is a logger: what libraries say of refused requests belongs to nobody.
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

const raw = (q) => Buffer.from(q.body, 'base64');
const text = (q) => raw(q).toString('utf8');

const libraries = {
  stripe(q) {
    const { default: Stripe } = require('stripe');
    const stripe = new (Stripe ?? require('stripe'))('sk_test_x');
    return stripe.webhooks.signature.verifyHeader(raw(q), q.headers['stripe-signature'], q.secret, 300);
  },
  async '@octokit/webhooks'(q) {
    const { Webhooks } = await import('@octokit/webhooks');
    return new Webhooks({ secret: q.secret, log: quiet }).verify(text(q), q.headers['x-hub-signature-256']);
  },
  twilio(q) {
    const params = Object.fromEntries(new URLSearchParams(text(q)));
    return require('twilio').validateRequest(q.secret, q.headers['x-twilio-signature'], q.url, params);
  },
  svix(q) {
    new (require('svix').Webhook)(q.secret).verify(raw(q), q.headers);
    return true;
  },
  standardwebhooks(q) {
    new (require('standardwebhooks').Webhook)(q.secret).verify(raw(q), q.headers);
    return true;
  },
  async '@shopify/shopify-api'(q) {
    require('@shopify/shopify-api/adapters/node');
    const { shopifyApi, LogSeverity } = require('@shopify/shopify-api');
    const shopify = shopifyApi({
      apiKey: 'k', apiSecretKey: q.secret, hostName: 'hooks.example.com', apiVersion: '2026-01', isEmbeddedApp: false, scopes: [],
      logger: { log() {}, level: LogSeverity.Error },
    });
    const rawRequest = { method: 'POST', url: '/h?x=1', headers: q.headers };
    return (await shopify.webhooks.validate({ rawBody: text(q), rawRequest, rawResponse: {} })).valid;
  },
  '@slack/bolt'(q) {
    const { verifySlackRequest } = require('@slack/bolt/dist/receivers/verify-request.js');
    verifySlackRequest({
      signingSecret: q.secret, body: text(q),
      headers: { 'x-slack-signature': q.headers['x-slack-signature'], 'x-slack-request-timestamp': Number(q.headers['x-slack-request-timestamp']) },
    });
    return true;
  },
  'discord-interactions'(q) {
    const { verifyKey } = require('discord-interactions');
    return verifyKey(raw(q), q.headers['x-signature-ed25519'], q.headers['x-signature-timestamp'], q.secret);
  },
  '@sendgrid/eventwebhook'(q) {
    const { EventWebhook } = require('@sendgrid/eventwebhook');
    const hook = new EventWebhook();
    const key = hook.convertPublicKeyToECDSA(q.secret);
    return hook.verifySignature(key, raw(q), q.headers['x-twilio-email-event-webhook-signature'], q.headers['x-twilio-email-event-webhook-timestamp']);
  },
  'sns-validator'(q) {
    https.get = (_, answer) => {
      const request = new EventEmitter();
      process.nextTick(() => {
        const response = new EventEmitter();
        response.statusCode = 200;
        answer(response);
        response.emit('data', Buffer.from(q.cert));
        response.emit('end');
      });
      return request;
    };
    const Validator = require('sns-validator');
    return new Promise((resolve) => new Validator().validate(text(q), (err) => resolve(!err)));
  },
};

async function accepts(q) {
  try {
    return (await libraries[q.library](q)) === true;
  } catch (err) {
    if (err?.code === 'MODULE_NOT_FOUND' || err?.code === 'ERR_MODULE_NOT_FOUND' || !libraries[q.library]) {
      throw err; // the library was not asked
    }
    return false;
  }
}

async function main() {
  if (!globalThis.crypto) {
    globalThis.crypto = crypto.webcrypto;
  }
  const chunks = [];
  for await (const chunk of process.stdin) {
    chunks.push(chunk);
  }
  const answers = [];
  for (const q of JSON.parse(Buffer.concat(chunks).toString('utf8'))) {
    answers.push(await accepts(q));
  }
  process.stdout.write(JSON.stringify(answers));
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
